"""How long a test waits for what is to come."""

import os


def patience(seconds: float) -> float:
    """The limit of a wait that takes less than ``seconds`` where nothing else runs: longer on a loaded machine.

    A limit only ends waits in vain, so it is generous; it is nothing to measure speed by.
    """
    return seconds * max(3.0, _crowd())


def allowed(seconds: float) -> float:
    """A time that is asserted itself: ``seconds`` where the processors are free, longer as far as they are not."""
    return seconds * max(1.0, _crowd())


def _crowd() -> float:
    """Twice the programs that want to run, for each processor."""
    return 2 * os.getloadavg()[0] / (os.cpu_count() or 1)
