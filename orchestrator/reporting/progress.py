"""Waiting for a batch's end, in a process that did not begin it."""

from __future__ import annotations

import time
from collections.abc import Callable

from dermbatch.errors import LedgerUnavailable, StackError
from dermbatch.ledger import BatchState, Ledger
from dermbatch.records.asked import BatchSummary
from dermbatch.store import ObjectStore
from orchestrator.batches.summary import read_summary

_LOOK_EVERY = 0.25
_OUTAGE = 60.0


def wait(
    ledger: Ledger, store: ObjectStore, batch: str, told: Callable[[BatchState | None], None] = lambda state: None
) -> BatchSummary:
    """Wait until a batch is closed: its summary is in the store.

    If the ledger has lost the batch, this waits until an orchestrator restores it.

    Args:
        ledger: Knows how the batch stands.
        store: Holds the summary in the end.
        batch: The batch's name.
        told: Called at every look with the state of the batch, or none if unknown; raises if waiting on makes no
            sense.

    Returns:
        The summary.

    Raises:
        StackError: If Redis has not answered for a minute.
    """
    state: BatchState | None = None
    woken = False
    answered = time.monotonic()
    while True:
        try:
            state = ledger.of(batch).batches.get(batch)
            answered = time.monotonic()
            if state is not None and state.finished and not woken:
                ledger.of(batch).slots.wake()  # where no worker did: all were refused, or the leader was away
                woken = True
        except LedgerUnavailable as error:  # its data are kept, so wait out an outage for a while
            if time.monotonic() - answered > _OUTAGE:
                raise StackError(f"Redis has not answered for a minute: {error}; look at its log") from error
        if state is None or state.finished or state.state == "cancelled":
            summary = read_summary(store, batch)
            if summary is not None:
                return summary
        told(state)
        ledger.of(batch).batches.sleep(_LOOK_EVERY)
