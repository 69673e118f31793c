"""The reconciler: tells Redis what the object store says about open batches.

It runs when an orchestrator takes the lead, when Redis has lost its data, and every half minute. So neither a
flushed Redis nor a command that died between the plan and Redis loses a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import structlog

from dermbatch import layout
from dermbatch.errors import DermbatchError, ObjectNotFound
from dermbatch.ledger import Ledger
from dermbatch.records.asked import Batch, BatchControl, ManifestEntry
from dermbatch.records.outcome import FailureRecord
from dermbatch.store import ObjectStore
from dermbatch.stored import write
from orchestrator.batches.entries import read_batch
from orchestrator.batches.outcomes import read_marks, read_outcome
from orchestrator.steering.controls import closed, read_control

_log = structlog.get_logger(__name__)

_REASONS_READ = 1000
"""Most failure records that are read for their reasons; others are only counted until the batch closes."""


def reconcile(store: ObjectStore, ledger: Ledger) -> list[str]:
    """Restore the open batches that the ledger does not know, and bring the others in line with the store.

    With several shards, only the batches of the ledger's own.

    Returns:
        Names of the batches that were restored.
    """
    known = {state.name: state for state in ledger.batches.all()}
    restored = []
    for name in filter(ledger.owns, open_names(store)):
        try:
            control = read_control(store, name)
            if name in known:
                if control is not None and control != known[name].control:
                    ledger.batches.steer(name, control)
                if known[name].growing:  # the ledger was not told about these
                    ledger.batches.grow(read_batch(store, name))
            elif control is not None and _restore(store, ledger, name, control):
                restored.append(name)
        except DermbatchError as error:  # an error of this batch only; others are restored anyway
            _log.warning("batch not reconciled", batch=name, reason=error.reason, message=str(error))
    return restored


def open_names(store: ObjectStore) -> Iterator[str]:
    """Names of the batches that are being planned or not closed yet."""
    for info in store.list(store.bucket, layout.OPEN):
        yield info.key.removeprefix(layout.OPEN).removesuffix(".json")


def reopen(store: ObjectStore) -> list[str]:
    """Write the control of every batch that has neither one nor a summary; returns their names."""
    found = []
    opened = set(open_names(store))
    for name in store.folders(store.bucket, layout.BATCHES):
        if name in opened or closed(store, name):
            continue
        try:
            batch = read_batch(store, name)
        except ObjectNotFound:  # a plan that was begun and abandoned
            continue
        except DermbatchError as error:
            _log.warning("batch not reopened", batch=name, reason=error.reason, message=str(error))
            continue
        write(store, layout.control(name), BatchControl.of(batch.order))
        found.append(name)
    return found


def restore(store: ObjectStore, ledger: Ledger, batch: Batch, control: BatchControl) -> None:
    """Tell the ledger about a batch, with the outcomes that the store holds."""
    marks = read_marks(store, batch)
    done = (index for index in marks.present() if marks.is_done(index))
    failed = (index for index in marks.present() if not marks.is_done(index))
    ledger.batches.restore(batch, control, done, _reasons(store, batch, failed))
    ledger.slots.wake()


def _restore(store: ObjectStore, ledger: Ledger, name: str, control: BatchControl) -> bool:
    try:
        batch = read_batch(store, name)
    except ObjectNotFound:  # still being planned
        return False
    if closed(store, name):  # its closing was interrupted at the very end
        store.delete(layout.control(name))
        return False
    restore(store, ledger, batch, control)
    _log.info("batch restored", batch=name)
    return True


def _reasons(store: ObjectStore, batch: Batch, failed: Iterable[int]) -> Iterator[tuple[int, str]]:
    for read, index in enumerate(failed):
        code = "unknown"
        if read < _REASONS_READ:
            record = read_outcome(store, batch, ManifestEntry(index=index, name=""), done=False).record
            code = record.reason if isinstance(record, FailureRecord) else code
        yield index, code
