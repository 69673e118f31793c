"""The worker's side of a lease: threads that keep it and give it back in time, and the news that it was lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from dermbatch.errors import LedgerUnavailable, TransientError
from dermbatch.ledger import Claim, Ledger
from workers.process.drain import EXTRA, Drain

_log = structlog.get_logger(__name__)

_LOOK = 0.2  # seconds between two looks whether the worker is to end


class LeaseLost(TransientError):
    """The image was put back while this worker had it; another one may be on it."""

    reason = "lease_lost"


class LeaseKeeper:
    """Reports one worker slot as alive, extends the lease of the image it holds, and gives it back at the end.

    Two daemon threads for each worker process; start them after the fork. They are two, for a Redis that does not
    answer may hold up the one, but not the end of the worker.

    Args:
        ledger: The ledger.
        slot: Name of this worker slot.
        interval: Seconds between two heartbeats.
        drain: When the worker ends.
        leave: Ends the process, whatever it is doing.
    """

    def __init__(
        self,
        ledger: Ledger,
        slot: str,
        interval: float,
        drain: Drain,
        *,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._ledger = ledger
        self._slot = slot
        self._interval = interval
        self._drain = drain
        self._leave = leave
        self._guard = threading.Lock()
        self._busy = False
        self._held: Claim | None = None
        self._lost = False
        self._closing = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lease-keeper", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="drain-watch", daemon=True)

    def start(self) -> None:
        """Begin to report."""
        self._beating.start()
        self._watching.start()

    def stop(self) -> None:
        """Stop reporting and take the slot off the list."""
        self._closing.set()
        for thread in (self._beating, self._watching):
            thread.join(timeout=self._interval)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Say that an image is being worked on. While inside, the process may be ended when the worker ends.

        Outside, it never is: it may be telling the worker about its task, which would wait for the rest for ever.
        """
        with self._guard:
            self._busy = True
        try:
            yield
        finally:
            with self._guard:
                self._busy = False

    @contextmanager
    def hold(self, claim: Claim) -> Iterator[None]:
        """Keep a claim's lease while inside; call :meth:`check` between steps."""
        with self._guard:
            self._held, self._lost = claim, False
        try:
            yield
        finally:
            with self._guard:
                self._held = None

    def check(self) -> None:
        """Go on only where that makes sense.

        Raises:
            LeaseLost: If the lease ran out, or was given back because the worker ends.
        """
        if self._lost:
            raise LeaseLost("the lease ran out before the image was finished")
        if self._drain.over:
            raise LeaseLost("the worker ends before the image is finished")

    def _beat(self) -> None:
        while not (self._drain.asked or self._closing.is_set()):
            self._beat_once()
            self._pause()
        # No images must be planned for a slot that takes no more.
        try:
            self._ledger.slots.retire(self._slot)
        except LedgerUnavailable:
            _log.info("slot not retired", slot=self._slot)
        while not self._closing.is_set():
            self._keep_lease()
            self._closing.wait(self._interval)

    def _pause(self) -> None:
        until = time.monotonic() + self._interval
        while (left := until - time.monotonic()) > 0 and not self._drain.asked:
            if self._closing.wait(min(left, _LOOK)):
                return

    def _beat_once(self) -> None:
        try:
            self._ledger.slots.report(self._slot)
        except LedgerUnavailable:
            _log.warning("heartbeat not delivered", slot=self._slot)
            return
        self._keep_lease()

    def _keep_lease(self) -> None:
        held = self._held
        if held is None:
            return
        try:
            if self._ledger.images.heartbeat(held):
                return
        except LedgerUnavailable:
            # The lease may survive a short silence; the commit is safe in any case, since it is conditional.
            _log.warning("heartbeat not delivered", slot=self._slot)
            return
        with self._guard:
            if self._held is held:
                self._lost = True

    def _watch(self) -> None:
        while not self._closing.wait(_LOOK):
            if self._drain.over:
                # This comes first, because giving back may take long if Redis does not answer.
                end = threading.Timer(EXTRA, self._end)
                end.daemon = True
                end.start()
                self._give_back()
                return

    def _give_back(self) -> None:
        held = self._held
        if held is None:
            return
        try:
            if self._ledger.images.postpone(held, 0, counted=False) >= 0:
                self._drain.count_given_back()
                _log.info("given back", batch=held.job.batch, index=held.job.index)
        except LedgerUnavailable:
            _log.warning("not given back: the lease will run out", batch=held.job.batch, index=held.job.index)

    def _end(self) -> None:
        while not self._closing.is_set():
            with self._guard:
                if self._busy:
                    self._leave(0)
            time.sleep(_LOOK)  # a task may have been on its way to this process
