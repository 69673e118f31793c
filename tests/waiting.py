"""How long a test waits for something."""

import os
import time


def patience(seconds: float) -> float:
    """The limit of a wait that takes less than ``seconds`` where nothing else runs: longer on a loaded machine.

    A limit only ends waits that cannot succeed, so it is generous; it is not for measuring speed.
    """
    return seconds * max(3.0, _crowd())


def wait_for(condition, seconds=30.0, what="what was waited for"):
    """Look again and again until there is something true, which it gives; fails after ``patience(seconds)``.

    Args:
        condition: Asked each time; what it asserts itself fails at once.
        seconds: As for `patience`.
        what: What to say if it never comes true, or what gives that then (a log, say).
    """
    deadline = time.monotonic() + patience(seconds)
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain: {what() if callable(what) else what}"
        time.sleep(0.02)
    return found


def allowed(seconds: float) -> float:
    """A time that is asserted itself: ``seconds`` where the processors are free, longer as far as they are not."""
    return seconds * max(1.0, _crowd())


def _crowd() -> float:
    """Twice the programs that want to run, for each processor."""
    return 2 * os.getloadavg()[0] / (os.cpu_count() or 1)
