"""The lead: one of several watchers works, the others wait to take its place."""

from __future__ import annotations

import threading
import time

import structlog

from dermbatch import metrics
from dermbatch.errors import DermbatchError
from dermbatch.ledger import Ledger

_log = structlog.get_logger(__name__)

_RENEWALS = 4
"""Renewals within the time that a lead lasts."""


class Lead:
    """A lease in Redis, kept by a thread whatever the watcher is busy with.

    The dispatcher's service has no such thread: it renews its lease in each of its turns, which are short
    (``orchestrator/dispatch/service.py``). Reading an archive out of a bucket takes longer than a lease.

    Args:
        ledger: Where the lease is.
        name: Name of this watcher.
        seconds: How long a lease lasts.
    """

    def __init__(self, ledger: Ledger, name: str, seconds: float) -> None:
        self._ledger = ledger
        self._name = name
        self._seconds = seconds
        self._until = float("-inf")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lead", daemon=True)

    def begin(self) -> None:
        """Try for the lead now, and from now on."""
        self._try()
        self._thread.start()

    def held(self) -> bool:
        """Whether this watcher leads, by its own clock, so that one that was suspended notices."""
        return time.monotonic() < self._until

    def end(self) -> None:
        """Leave the lead to others at once."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._until = float("-inf")
        metrics.WATCH_LEADER.set(0)
        try:
            self._ledger.slots.resign(self._name, "watcher")
        except DermbatchError as error:
            _log.info("lead not given back", reason=error.reason)

    def _keep(self) -> None:
        while not self._ending.wait(self._seconds / _RENEWALS):
            self._try()

    def _try(self) -> None:
        began, before = time.monotonic(), self.held()
        try:
            if self._ledger.slots.lead(self._name, self._seconds, "watcher"):
                self._until = began + self._seconds
            else:
                self._until = float("-inf")
        except DermbatchError as error:
            _log.warning("lead not renewed", reason=error.reason)
        if self.held() != before:
            _log.info("watches" if self.held() else "follows", name=self._name)
        metrics.WATCH_LEADER.set(self.held())
