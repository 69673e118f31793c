"""Whole traces through the simulator of scaling, as its command runs them: the documents' figures are its own."""

import json
from pathlib import Path

import pytest

from benchmarks.scaling.__main__ import main

DOCUMENTED = [
    line.split(" | ")
    for line in (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8").splitlines()
    if line.startswith(("| `--trace morning-dump", "| `--trace node-losses"))
]


@pytest.mark.parametrize("row", DOCUMENTED, ids=lambda row: row[0].strip("| `"))
def test_the_documents_figures_are_those_of_the_simulator(row, capsys):
    main([*row[0].strip("| `").split(), "--json"])
    figures = json.loads(capsys.readouterr().out)
    names = (
        "bulk_hours_to_finish",
        "gpu_hours",
        None,
        "cost",
        "live_wait_p50_s",
        "live_wait_p99_s",
        "live_done_p99_s",
    )
    for name, printed in zip(names, row[1:], strict=False):
        if name:
            assert float(printed) == pytest.approx(figures[name], abs=0.51 if name == "cost" else 0.051)


def test_every_figure_of_the_document_was_found():
    assert len(DOCUMENTED) == 7


def test_the_command_prints_figures_and_draws(capsys, tmp_path):
    path = tmp_path / "morning.png"
    main(["--trace", "morning-dump", "--json", "--set", "triton.min_replicas=1", "--plot", str(path)])
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 3_512
    assert figures["longest_without_triton_s"] == 0
    assert figures["live_wait_p99_s"] <= figures["live_done_p99_s"]
    assert path.read_bytes().startswith(b"\x89PNG")
    main(["--trace", "morning-dump", "--workers-do-not-wait"])
    assert "Keep more servers" in capsys.readouterr().out
