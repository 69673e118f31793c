"""The end of a worker: how long its images may still run, and what became of them."""

from __future__ import annotations

import math
import multiprocessing
import time
from multiprocessing.sharedctypes import RawValue

EXTRA = 1.0
"""Seconds after the deadline in which a process may still end its image itself before it is killed."""


class Drain:
    """Shared by a worker and its pool processes; make it before they are forked.

    Times are of the machine's monotonic clock, which all its processes share.

    Args:
        grace: Seconds from the first request to end until images that still run are given back.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._deadline = RawValue("d", math.inf)
        self._finished = multiprocessing.Value("i")
        self._given_back = multiprocessing.Value("i")

    def begin(self) -> None:
        """End within the grace, or at once if asked again. Takes no lock, because signal handlers call it."""
        grace = 0.0 if self.asked else self._grace
        self._deadline.value = min(self._deadline.value, time.monotonic() + grace)

    def begin_at_once(self) -> None:
        """End without a grace. Takes no lock."""
        self._deadline.value = min(self._deadline.value, time.monotonic())

    @property
    def asked(self) -> bool:
        """Whether the worker has been asked to end."""
        return math.isfinite(self._deadline.value)

    @property
    def over(self) -> bool:
        """Whether images that still run are to be given back now."""
        return time.monotonic() >= float(self._deadline.value)

    def count_finished(self) -> None:
        """Note that an image got an outcome or a pause; counted only once the worker has been asked to end."""
        if self.asked:
            with self._finished.get_lock():
                self._finished.value += 1

    def count_given_back(self, images: int = 1) -> None:
        """Note that images went back to the ledger without an outcome."""
        with self._given_back.get_lock():
            self._given_back.value += images

    @property
    def counts(self) -> dict[str, int]:
        """How many images were finished, and how many given back, since the worker was asked to end."""
        return {"finished": self._finished.value, "given_back": self._given_back.value}
