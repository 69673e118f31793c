"""Steering batches: pause, resume, cancel, another lane or weight.

The object store is told first, so that losing Redis does not undo what a person has decided.
"""

from __future__ import annotations

from typing import Any

import structlog

from dermbatch import layout
from dermbatch.errors import (
    DermbatchError,
    ObjectNotFound,
    PermanentError,
    RecordDamaged,
    StoreRefused,
    UsageError,
)
from dermbatch.ledger import BatchState, Ledger
from dermbatch.records.asked import Batch, BatchControl, Lane
from dermbatch.store import ObjectStore
from dermbatch.stored import read, write

_log = structlog.get_logger(__name__)


def read_control(store: ObjectStore, name: str) -> BatchControl | None:
    """How an open batch is to be run; none if it is not open. A control damaged by editing counts as paused."""
    try:
        return read(store, layout.control(name), BatchControl)
    except ObjectNotFound:
        return None
    except RecordDamaged:
        return BatchControl(
            state="paused", why=f"{layout.control(name)} is damaged; resume the batch to repair it"
        )


def begin(store: ObjectStore, ledger: Ledger, batch: Batch) -> None:
    """Have a newly planned batch fed, as it has been steered meanwhile, if it has."""
    shard = ledger.of(batch.name)
    shard.batches.open(batch, read_control(store, batch.name))
    shard.slots.wake()


def begin_if_open(store: ObjectStore, ledger: Ledger, batch: Batch) -> None:
    """The same for one that was planned earlier, whose command may have been killed right afterwards."""
    if ledger.of(batch.name).batches.get(batch.name) is None and read_control(store, batch.name) is not None:
        begin(store, ledger, batch)


def write_control(store: ObjectStore, ledger: Ledger, name: str, control: BatchControl) -> None:
    """Change how a batch is run from now on."""
    write(store, layout.control(name), control)
    shard = ledger.of(name)
    shard.batches.steer(name, control)
    shard.slots.wake()


def closed(store: ObjectStore, name: str) -> bool:
    """Whether a batch has ended: its summary is there."""
    return any(info.key == layout.summary(name) for info in store.list(store.bucket, layout.summary(name)))


def is_damage(error: DermbatchError) -> bool:
    """Whether the records of a batch have to be mended by hand before it can go on.

    A lack of permission to read them concerns the whole bucket, and is fixed elsewhere.
    """
    return isinstance(error, PermanentError) and error.reason != StoreRefused.reason


def halt(store: ObjectStore, ledger: Ledger, state: BatchState, why: str, *, tolerant: bool | None = None) -> None:
    """Pause a batch that cannot go on without help.

    Args:
        store: Keeps the control.
        ledger: The ledger that feeding goes by.
        state: How the batch stands.
        why: For people.
        tolerant: Whether, once resumed, it is never again paused for its share of failures; by default unchanged.
    """
    changes = {"state": "paused", "why": why, "tolerant": state.tolerant if tolerant is None else tolerant}
    control = BatchControl.model_validate({**state.control.model_dump(), **changes})
    write(store, layout.control(state.name), control)
    ledger.batches.steer(state.name, control)
    _log.warning("batch paused", batch=state.name, why=why)


def pause(store: ObjectStore, ledger: Ledger, name: str) -> None:
    """Feed no further images of a batch; those in flight are finished.

    Raises:
        UsageError: If there is no such batch, or it has ended.
    """
    _change(store, ledger, name, state="paused", why="paused by hand")


def resume(store: ObjectStore, ledger: Ledger, name: str) -> None:
    """Continue a paused batch. One paused for its share of failures is not paused for that again.

    Raises:
        UsageError: If there is no such batch, it has ended, or it is cancelled.
    """
    _change(store, ledger, name, state="open", why="")


def cancel(store: ObjectStore, ledger: Ledger, name: str) -> None:
    """End a batch: nothing more of it is started, then it is closed with the outcomes that it has.

    Raises:
        UsageError: If there is no such batch, or it has ended.
    """
    _change(store, ledger, name, state="cancelled", why="cancelled by hand")


def prioritize(
    store: ObjectStore, ledger: Ledger, name: str, *, lane: Lane | None = None, weight: int | None = None
) -> None:
    """Move a batch to another lane, or give it another share of its lane.

    Raises:
        UsageError: If there is no such batch, or it has ended.
    """
    changes: dict[str, Any] = {"lane": lane, "weight": weight}
    _change(store, ledger, name, **{field: value for field, value in changes.items() if value is not None})


def _change(store: ObjectStore, ledger: Ledger, name: str, **changes: Any) -> None:
    control = read_control(store, layout.check_batch_name(name))
    if control is None:
        known = any(store.list(store.bucket, layout.batch_record(name)))
        raise UsageError(f"batch {name!r} has ended" if known else f"there is no batch {name!r}")
    if control.state == "cancelled":
        raise UsageError(f"batch {name!r} is cancelled; submit its images again under another name")
    write_control(store, ledger, name, BatchControl.model_validate({**control.model_dump(), **changes}))
