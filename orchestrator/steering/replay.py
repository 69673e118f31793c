"""Replaying failures: the failed images of a batch are tried again, and only those."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.ledger import Ledger
from dermbatch.records.asked import Batch, BatchControl
from dermbatch.records.outcome import FailureRecord
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import named
from orchestrator.batches.outcomes import outcomes
from orchestrator.batches.summary import read_summary
from orchestrator.steering.controls import read_control, write_control
from orchestrator.steering.reconciler import restore

_REPLAYED_AT_A_TIME = 1000
_READERS = 16
_REPLAYING = "failures are being replayed"


def retry(store: ObjectStore, ledger: Ledger, name: str, reason: str | None = None) -> int:
    """Have failed images tried again: all of them, or those that failed for one reason.

    Their failure records are deleted, and the batch is open again until they have another outcome. If this is
    interrupted, the batch stays paused; repeating it, or ``resume``, continues it.

    Returns:
        How many.

    Raises:
        UsageError: If there is no such batch, or it is cancelled.
    """
    batch, ledger = named(store, name), ledger.of(name)
    before, standing, ended = read_control(store, name), ledger.batches.get(name), read_summary(store, name)
    if "cancelled" in {before and before.state, ended and ended.state}:
        raise UsageError(f"batch {name!r} is cancelled; submit its images again under another name")
    if standing is not None and standing.finished and standing.state == "open":
        raise UsageError(f"batch {name!r} is just being closed; try again in a moment")
    chosen = failures(store, batch, reason)
    first = list(islice(chosen, _REPLAYED_AT_A_TIME))
    if not first and (before is None or before.why != _REPLAYING):
        return 0
    asked = before or BatchControl.of(batch.order)
    store.delete(
        layout.summary(name)
    )  # before the control, since an ended batch with a control would be tidied up
    halted = asked.model_copy(update={"state": "paused", "why": _REPLAYING})
    write_control(store, ledger, name, halted)
    replayed = 0
    while first:
        for failure in first:
            store.delete(layout.failure(name, failure.index))
        ledger.batches.rewind(name, {failure.index: failure.reason for failure in first})
        replayed += len(first)
        first = list(islice(chosen, _REPLAYED_AT_A_TIME))
    on = asked.model_copy(update={"state": "open", "why": "", "tolerant": True})
    write_control(store, ledger, name, on)
    if ledger.batches.get(name) is None:
        restore(store, ledger, batch, on)
    return replayed


def failures(store: ObjectStore, batch: Batch, reason: str | None = None) -> Iterator[FailureRecord]:
    """Failure records of the images without a result, in order; of one reason, where one is given."""
    for outcome in outcomes(store, batch, done=False, readers=_READERS):
        if isinstance(outcome.record, FailureRecord) and reason in {None, outcome.record.reason}:
            yield outcome.record
