"""A Redis whose wall clock can be stepped: the real Valkey under libfaketime (Debian: ``libfaketime``).

Only ``CLOCK_REALTIME`` is moved, as an administrator or a bad NTP server moves it; the monotonic clock runs on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.stack.process import Part

_LIBRARY = "libfaketimeMT.so.1"
_PLACES = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime")


def library() -> Path | None:
    """The library, where the system has it."""
    root = Path("/")
    found = [path for place in _PLACES for path in root.glob(f"{place[1:]}/{_LIBRARY}")]
    return found[0] if found else None


class SteppedClock:
    """The clock of some parts, to be stepped while they run.

    Args:
        parts: Not started yet; their commands are put under the library.
        file: Where the step is written for the library to read.
        preload: The library.
    """

    def __init__(self, parts: Sequence[Part], file: Path, preload: Path) -> None:
        self._file = file
        self.step(0)
        for part in parts:
            part.argv = [
                "/usr/bin/env",
                f"LD_PRELOAD={preload}",
                f"FAKETIME_TIMESTAMP_FILE={file}",
                "FAKETIME_NO_CACHE=1",
                "FAKETIME_DONT_FAKE_MONOTONIC=1",
                "DONT_FAKE_MONOTONIC=1",  # its older name
                *part.argv,
            ]

    def step(self, seconds: int) -> None:
        """Set the clock to ``seconds`` ahead of the true time; behind where negative."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n", encoding="ascii")
        new.replace(self._file)  # the library must never read half of it
