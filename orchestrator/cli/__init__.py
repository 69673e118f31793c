"""The command line. Exit codes: 0 success, 1 some images failed or a part broke, 2 usage, 128 + n signal n."""

from __future__ import annotations

import signal
import sys
from typing import Any, NoReturn

from dermbatch import __version__

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_S = 0.01


def main() -> None:
    """Run a command; errors become one sentence and an exit code.

    Its libraries take a second or two to import, so none is imported before signals are handled, or for --version.
    """
    hear()
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"{__version__}\n")
        return
    from orchestrator.cli.program import run  # noqa: PLC0415

    run(sys.argv[1:])


def hear(then: str = "") -> None:
    """Have SIGINT and SIGTERM end the program with one sentence.

    Args:
        then: The end of that sentence.
    """

    def end(number: int, frame: Any) -> NoReturn:
        # As an exception, so that what was started is stopped; a second signal must not interrupt that.
        for again in _SIGNALS:
            signal.signal(again, signal.SIG_IGN)
        sys.stderr.write(f"dermbatch: ended by {signal.Signals(number).name}{then}\n")
        raise SystemExit(128 + number)

    for number in _SIGNALS:
        signal.signal(number, end)
    sys.unraisablehook = _insist


def _insist(unraisable: Any) -> None:
    """Raise the end of the program again if a callback of the interpreter swallowed it.

    A signal that comes while a weak reference dies (importing has many) or an object is finalised raises inside
    that callback, which swallows it.
    """
    ended = unraisable.exc_value
    if not isinstance(ended, SystemExit):
        sys.__unraisablehook__(unraisable)
        return

    def again(number: int, frame: Any) -> NoReturn:
        raise ended

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
