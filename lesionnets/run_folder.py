"""The folder of a training run: its state, from which it continues after a kill, and its log.

Whenever a run is killed, the folder holds its last whole epoch. ``last.pt`` is replaced as a whole or not at all,
and later lines of ``log.csv`` are removed when the run continues.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dermbatch.errors import UsageError
from lesionnets import checkpoint

_KEYS = {"told", "state", "parts"}


@dataclass
class State:
    """How far training has come.

    Attributes:
        epoch: Number of finished epochs.
        seconds: Wall-clock seconds that they took.
        best: The best validation figure.
        best_figures: All figures of the best validation.
        stale: Number of validations since then.
    """

    epoch: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    best_figures: dict[str, float] = field(default_factory=dict)
    stale: int = 0


@dataclass(frozen=True)
class RunFolder:
    """``best.pt``, ``last.pt`` and ``log.csv`` of a run."""

    path: Path

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation figure so far."""
        return self.path / "best.pt"

    @property
    def last(self) -> Path:
        """Everything that is needed to continue."""
        return self.path / "last.pt"

    @property
    def log(self) -> Path:
        """One line for each validation."""
        return self.path / "log.csv"

    def begin(self) -> None:
        """Create the folder, and delete what an earlier run left in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        for file in (self.last, self.best, self.log):
            file.unlink(missing_ok=True)

    def save(self, state: State, told: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> None:
        """Write ``last.pt``.

        Args:
            state: How far training has come.
            told: Plain values that identify the run, such as recipe and seed.
            parts: State dictionaries of everything that learns.
        """
        checkpoint.write_whole(self.last, {"told": dict(told), "state": vars(state), "parts": dict(parts)})

    def load(self, told: Mapping[str, Any], where: torch.device) -> tuple[State, dict[str, Any]] | None:
        """State and state dictionaries of ``last.pt``, with the log cut back to them; None without ``last.pt``.

        Raises:
            UsageError: If the file cannot be read or belongs to another run.
        """
        if not self.last.is_file():
            return None
        try:
            content = torch.load(self.last, map_location=where, weights_only=True)
        except checkpoint.UNREADABLE as error:
            raise UsageError(f"{self.last} cannot be read; train again without --resume") from error
        if not isinstance(content, dict) or set(content) != _KEYS:
            raise UsageError(f"{self.last} is not from a run of this version; train again without --resume")
        for name, value in told.items():
            if content["told"].get(name) != value:
                raise UsageError(
                    f"{self.last} is a run of {name} {content['told'].get(name)!r}, not {value!r}; "
                    "choose another --out or drop --resume"
                )
        state = State(**content["state"])
        self._cut_log(state.epoch)
        return state, content["parts"]

    def write_log(self, row: Mapping[str, float]) -> None:
        """Append a line, and before the first one a heading."""
        is_new = not self.log.is_file()
        with self.log.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)

    def _cut_log(self, epoch: int) -> None:
        """Remove what was logged after an epoch, which is logged again, and an incomplete line."""
        if not self.log.is_file():
            return
        heading, *lines = self.log.read_text().splitlines(keepends=True) or [""]
        kept = [line for line in lines if line.endswith("\n") and int(line.partition(",")[0]) <= epoch]
        if not kept:
            self.log.unlink()
            return
        beside = self.log.with_name("log.csv.part")
        beside.write_text(heading + "".join(kept))
        beside.replace(self.log)
