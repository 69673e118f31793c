"""How a worker's main process ends: the signals it handles, and the images it gives back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable
from typing import Any, Protocol

import structlog
from celery import signals
from celery.worker import state

from dermbatch.errors import LedgerUnavailable
from dermbatch.ledger import Ledger
from dermbatch.settings import Settings
from workers.process.drain import Drain

_log = structlog.get_logger(__name__)

_LOOK = 0.2  # seconds between two looks whether the worker is to end
_ON_THE_WAY = 0.5  # seconds that a message may be on its way to a process of the pool


class _Request(Protocol):
    """What is used of Celery's requests."""

    @property
    def args(self) -> list[dict[str, Any]]: ...


class Shutdown:
    """On SIGTERM or SIGINT, take no more messages and finish within the grace; on a second, end at once.

    What runs at the deadline is given back by the processes that run it (see
    :class:`~workers.process.lease.LeaseKeeper`), and what was taken from the queue, but not begun, by the main
    process.

    Args:
        settings: All settings.
        drain: Shared with the processes of the pool.
    """

    def __init__(self, settings: Settings, drain: Drain) -> None:
        self._settings = settings
        self._drain = drain
        self._ended = threading.Event()

    def connect(self) -> None:
        """Listen to Celery's signals."""
        signals.worker_shutting_down.connect(self._begin, weak=False)
        signals.worker_ready.connect(self._take_signals, weak=False)
        signals.worker_shutdown.connect(self._report, weak=False)

    def _begin(self, **_: Any) -> None:
        self._drain.begin()  # no more than this: it runs in a signal handler

    def _take_signals(self, sender: Any = None, **_: Any) -> None:
        _wake(getattr(sender, "hub", None))
        # Celery's own answer to SIGQUIT and to a second SIGINT kills the pool before it can give anything back.
        warm = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGINT, warm)

        def at_once(number: int, frame: Any) -> None:
            self._drain.begin_at_once()
            if callable(warm):
                warm(number, frame)

        signal.signal(signal.SIGQUIT, at_once)
        threading.Thread(target=self._watch, name="drain-watch", daemon=True).start()

    def _watch(self) -> None:
        while not self._drain.asked:
            if self._ended.wait(_LOOK):
                return
        if self._ended.wait(_ON_THE_WAY):
            return
        ledger = Ledger(self._settings.redis, self._settings.ledger)
        active = set(state.active_requests)
        waiting = [request for request in list(state.reserved_requests) if request not in active]
        self._drain.count_given_back(give_back(ledger, waiting))

    def _report(self, **_: Any) -> None:
        self._ended.set()
        _log.info("worker ended", **self._drain.counts)


def _wake(hub: Any) -> None:
    """Let signals end the wait of Celery's event loop, which otherwise reacts up to a second later."""
    if hub is None:  # a pool without one
        return
    heard, told = os.pipe()
    for end in (heard, told):
        os.set_blocking(end, False)
    hub.add_reader(heard, os.read, heard, 4096)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)


def give_back(ledger: Ledger, requests: Iterable[_Request]) -> int:
    """Give back images whose messages no pool process has begun; returns how many were queued."""
    given = 0
    for request in requests:
        job = request.args[0]
        try:
            given += ledger.images.give_back(job["batch"], job["index"])
        except LedgerUnavailable:
            _log.warning("message not given back: it is sent again as a lost one")
    return given
