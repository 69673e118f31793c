"""The benchmark of what each part of the classifier's training adds, at its smallest."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import ablation
from lesionnets.data.batches.looked_at import Looks


def test_each_row_has_what_the_one_before_it_has() -> None:
    rows = list(ablation.ROWS.values())
    for before, here in pairwise(rows):
        parts = [name for name in vars(Looks()) if getattr(before, name) != getattr(here, name)]
        assert parts
        assert all(getattr(here, name) > getattr(before, name) for name in parts)
    assert rows[-1] == replace(Looks(), mixup=True, balance=1)


def test_a_row_is_trained_kept_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ablation", "--smoke", "--row", "mixup", "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    ablation.main()
    first = figures(capsys)
    assert any(line.startswith("mixup:mean_auc=") for line in first)
    assert (tmp_path / "source-2-mixup" / "best.pt").exists()
    ablation.main()
    assert figures(capsys) == first
    monkeypatch.setattr(sys, "argv", ["ablation"])
    with pytest.raises(SystemExit) as ended:
        ablation.main()
    assert ended.value.code == 2


def figures(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines with figures, without the progress bar's."""
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("mixup:")]
