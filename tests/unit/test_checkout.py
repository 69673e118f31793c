"""What a contributor's tools find in a checkout: hooks, a container to develop in, the mark of typed packages."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


def recipe(target):
    """Prerequisites and commands of a target."""
    asked, lines = re.search(rf"^{target}:([^#\n]*).*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE).groups()
    return asked.split(), [line.strip().replace("$(BIN)", ".venv/bin") for line in lines.splitlines()]


def test_the_hooks_run_what_make_check_runs():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    asked, commands = recipe("check")
    made = [f"make {target}" for target in asked if target != "develop"]
    assert sorted(hook["entry"] for hook in repository["hooks"]) == sorted(made + commands)
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}


@pytest.mark.parametrize(
    ("hook", "file"),
    [("types", "pyproject.toml"), ("imports", "pyproject.toml")]
    + [("chart", file) for file in ("CHANGELOG.md", "constraints.txt", "dermbatch/metrics.py", "docs/runbook.md")],
)
def test_a_hook_runs_for_what_it_reads(hook, file):
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (found,) = (one for one in repository["hooks"] if one["id"] == hook)
    assert found.get("always_run") or re.search(found["files"], file)


def test_every_package_of_the_wheel_is_marked_as_typed():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert len(wheel["packages"]) == 5
    assert all((ROOT / package / "py.typed").is_file() for package in wheel["packages"])


def test_the_container_to_develop_in_has_the_python_of_the_images_and_runs_targets_that_exist():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    ours = re.search(r"^ARG PYTHON_IMAGE=(.*)$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)[1]
    assert container["image"] == ours.replace("-slim", "")
    program, *targets = container["postCreateCommand"].split()
    assert program == "make"
    assert all(re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) for target in targets)
