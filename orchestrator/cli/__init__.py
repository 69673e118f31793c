"""The command line. Exit codes: 0 all well, 1 some images failed or a part broke, 2 usage, 128 + n signal n."""

from __future__ import annotations

import signal
import sys
from typing import Any, NoReturn

from dermbatch import __version__


def main() -> None:
    """Run a command; errors become one sentence and an exit code.

    Its libraries take a second or two to import, so none is before signals are heard, or for the version.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"{__version__}\n")
        return
    from orchestrator.cli.program import run  # noqa: PLC0415

    run(sys.argv[1:])


def _end(number: int, frame: Any) -> NoReturn:
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)
    sys.stderr.write(f"dermbatch: ended by {signal.Signals(number).name}\n")
    raise SystemExit(128 + number)
