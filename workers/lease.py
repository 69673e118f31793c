"""The worker's side of a lease: a thread that keeps it, and the news that it was lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from dermbatch.errors import LedgerUnavailable, TransientError
from dermbatch.ledger import Claim, Ledger

_log = structlog.get_logger(__name__)


class LeaseLost(TransientError):
    """The image was put back while this worker had it; another one may be on it."""

    reason = "lease_lost"


class LeaseKeeper:
    """Reports one worker slot as alive, and extends the lease of the image it holds.

    One daemon thread for each worker process; start it after the fork.

    Args:
        ledger: The ledger.
        slot: Name of this worker slot.
        interval: Seconds between two heartbeats.
    """

    def __init__(self, ledger: Ledger, slot: str, interval: float) -> None:
        self._ledger = ledger
        self._slot = slot
        self._interval = interval
        self._guard = threading.Lock()
        self._held: Claim | None = None
        self._lost = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease-keeper", daemon=True)

    def start(self) -> None:
        """Begin to report."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reporting and take the slot off the list."""
        self._closing.set()
        self._thread.join(timeout=self._interval)

    @contextmanager
    def hold(self, claim: Claim) -> Iterator[Callable[[], None]]:
        """Keep a claim's lease while inside.

        Yields:
            A function to call between steps; it raises :class:`LeaseLost` once the lease is lost.
        """
        with self._guard:
            self._held, self._lost = claim, False
        try:
            yield self._check
        finally:
            with self._guard:
                self._held = None

    def _check(self) -> None:
        if self._lost:
            raise LeaseLost("the lease ran out before the image was finished")

    def _beat(self) -> None:
        while True:
            self._beat_once()
            if self._closing.wait(self._interval):
                break
        try:
            self._ledger.retire_slot(self._slot)
        except LedgerUnavailable:
            _log.info("slot not retired", slot=self._slot)

    def _beat_once(self) -> None:
        try:
            self._ledger.report_slot(self._slot)
            with self._guard:
                held = self._held
                if held is not None and not self._ledger.heartbeat(held):
                    self._lost = True
        except LedgerUnavailable:
            # The lease may survive a short silence; the commit is safe in any case, since it is conditional.
            _log.warning("heartbeat not delivered", slot=self._slot)
