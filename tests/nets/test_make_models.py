"""``make models`` names the models that ship, and commands that exist."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import typer.main

from dermbatch.settings import DEFAULT_MODELS
from lesionnets.cli import app

ROOT = Path(__file__).parents[2]


def told(*words: str) -> list[list[str]]:
    """The commands of ``lesionnets`` that it would run, as words."""
    run = ["make", "--dry-run", "--no-print-directory", "models", *words]
    output = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = output.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith(".venv/bin/lesionnets ")]


def test_all_defaults_are_trained_with_the_seed_and_exported() -> None:
    words = told("DATA=some/data", "SEED=7", "TRAIN=--smoke")
    names = {choice.name.removesuffix("_int8") for choice in DEFAULT_MODELS.values()}
    trained = [line for line in words if line[0] == "train"]
    names.add("enhance_double")  # beside the default that enlarges four times
    assert {line[1] for line in trained} == names
    for line in trained:
        assert line[line.index("--seed") + 1] == "7"
        assert line[line.index("--data") + 1] == "some/data"
        assert "--smoke" in line
    assert {line[1] for line in words if line[0] == "export"} == {f"build/models/{name}/best.pt" for name in names}
    order = [line[0] for line in words]
    assert order == ["train"] * 5 + ["usual"] + ["export"] * 5 + ["precision"] * 3
    (beside,) = [line for line in words if "--doubler" in line]
    assert beside[1] == "build/models/enhance_espcn/best.pt"
    assert beside[beside.index("--doubler") + 1] == "enhance_double"
    program = typer.main.get_command(app)
    for line in words:
        command = program.commands[line[0]]  # type: ignore[attr-defined]
        command.make_context(line[0], line[1:])
