"""The experiment of chosen images against images by chance runs from a clone, on drawn pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import active_learning


def test_the_experiment_runs_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors, told = tmp_path / "vectors.npz", tmp_path / "told.json"
    words = ["active_learning", "--smoke", "--embeddings", str(vectors), "--json", str(told)]
    monkeypatch.setattr(sys, "argv", words)
    active_learning.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "images=39 held_out=9 melanomas=13"
    assert np.load(vectors)["vectors"].shape == (39, 4 * 1280)
    figures = json.loads(told.read_text())
    assert [(one["strategy"], one["images"]) for one in figures] == [
        (strategy, str(size)) for strategy in active_learning.STRATEGIES for size in (4, 8)
    ]
    assert all(("mean_auc_against" in one) == (one["strategy"] != "random") for one in figures)
    active_learning.main()  # of the vectors that are there now
    assert capsys.readouterr().out.splitlines() == lines[1:]


def test_it_needs_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["active_learning"])
    with pytest.raises(SystemExit) as ended:
        active_learning.main()
    assert ended.value.code == 2
