"""What `make containers compose-check` starts from, as far as that needs no container."""

import ast
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml
from rendering import ROOT

from benchmarks.containers.__main__ import Findings, add_version
from benchmarks.containers.formats import write_formats
from benchmarks.containers.images import OURS, STANDINS, argument
from benchmarks.containers.inside import broken, decoded, names
from benchmarks.containers.proof import compared
from benchmarks.containers.town import PROGRAMS, SERVERS, Town, sources
from benchmarks.killloop.verdict import Verdict
from deploy.check_models import wrong_models
from orchestrator.stack.servers import s3door

COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))["services"]


def test_all_services_are_run_but_grafana_and_every_image_is_built():
    assert {*SERVERS, *PROGRAMS, "commands", "grafana"} == set(COMPOSE)
    images = {service["image"] for name, service in COMPOSE.items() if name != "grafana"}
    assert {image.rpartition(":")[0] for image in images - set(OURS.values())} == set(STANDINS.values())
    assert set(OURS.values()) < images


def test_every_variable_of_compose_is_given(tmp_path):
    """Else compose starts nothing at all, though the variable is of a service that is not asked for."""
    Town(tmp_path / "town")
    named = set(re.findall(r"\$\{(\w+)", (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")))
    given = re.findall(r"^(\w+)=.", (tmp_path / "town" / "env").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(given) == named


def test_bases_are_those_of_the_dockerfiles():
    assert argument("Dockerfile", "PYTHON_IMAGE") == argument("triton.Dockerfile", "PYTHON_IMAGE")
    assert argument("triton.Dockerfile", "TRITON_IMAGE").startswith("nvcr.io/nvidia/tritonserver:")
    with pytest.raises(SystemExit, match="no argument NOTHING"):
        argument("Dockerfile", "NOTHING")


def test_the_sources_that_are_changed_are_those_that_a_build_sees(tmp_path):
    with sources(tmp_path) as copy:
        for name in ("Dockerfile", "triton.Dockerfile"):
            text = (copy / "deploy" / name).read_text(encoding="utf-8")
            copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
            assert copied
            for source in " ".join(copied).split():
                assert (copy / source).exists(), source
        assert not list(copy.rglob("__pycache__"))
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_the_next_version_is_whole(tmp_path):
    models = tmp_path / "models"
    shutil.copytree(ROOT / "model_repository", models)
    add_version(models / "classify_lite")
    assert wrong_models(models) == []
    assert (models / "classify_lite" / "2" / "model.onnx").is_file()
    assert '"sha256.2"' in Path(models, "classify_lite", "config.pbtxt").read_text(encoding="utf-8")


def test_files_of_every_coding_are_decoded_where_nothing_is_left_out(tmp_path):
    count = write_formats(tmp_path)
    digests = {path.name: decoded(path) for path in tmp_path.iterdir()}
    assert len(digests) == count
    refused = {name: outcome for name, outcome in digests.items() if " " not in outcome}
    assert refused == dict.fromkeys(("plain GIF", "16 bit TIFF, jpeg"), "unsupported_format")


def test_whatever_an_image_lacks_is_told():
    here = {"modules": 3, "broken": {}, "files": {"a.png": "abc (1, 1, 3)", "b.png": "corrupt"}}
    assert compared(here, here) == []
    lacking = {"modules": 2, "broken": {"a.b": "ImportError()"}, "files": {"a.png": "corrupt"}}
    assert compared(lacking, here) == [
        "a.b cannot be imported: ImportError()",
        "there are 2 modules, not 3",
        "a.png comes out as corrupt, not as abc (1, 1, 3)",
        "b.png comes out as None, not as corrupt",
    ]


def test_modules_are_found_and_told_where_they_cannot_be_imported():
    assert {"dermbatch", "dermbatch.images.imagefile"} <= set(names("dermbatch"))
    assert broken(["dermbatch.images.imagefile", "dermbatch.nowhere"]).keys() == {"dermbatch.nowhere"}


@pytest.mark.parametrize(
    ("verdict", "wrong", "line"),
    [
        ({}, [], "lost=0 duplicated=0 torn=0 failed=0"),
        ({}, ["a sentence"], "lost=0 duplicated=0 torn=0 failed=0"),
        ({"lost": 2}, [], "lost=2 duplicated=0 torn=0 failed=0"),
        ({"duplicated": 1}, [], "lost=0 duplicated=1 torn=0 failed=0"),
        ({"torn": 3}, [], "lost=0 duplicated=0 torn=3 failed=0"),
        ({"failed": Counter(model_contract=2, poison=1)}, [], "lost=0 duplicated=0 torn=0 failed=3"),
    ],
)
def test_whatever_is_wrong_is_counted_and_makes_the_check_fail(verdict, wrong, line):
    whole = {"lost": 0, "duplicated": 0, "torn": 0, "poisoned": 0, "failed": Counter(), "complaints": []}
    verdicts = {"good": Verdict(**whole), "other": Verdict(**{**whole, **verdict})}
    findings = Findings(kills=8, ends=7, upgrades=3, verdicts=verdicts, wrong=wrong)
    assert findings.line(90) == f"{line} kills=8 ends=7 upgrades=3 images=90"
    assert findings.good == (not verdict and not wrong)


def test_the_stand_in_for_minio_asks_its_door_for_names_that_are_there() -> None:
    tree = ast.parse((ROOT / "benchmarks/containers/standins/minio.py").read_text())
    named = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "s3door"
    }
    assert "S3Door" in named
    assert [name for name in sorted(named) if not hasattr(s3door, name)] == []
