"""How failures are recorded: the same way for refused inputs, for workers that give up, and for poison."""

from __future__ import annotations

from datetime import UTC, datetime

from dermbatch import __version__, layout
from dermbatch.records.outcome import FailureRecord
from dermbatch.store import ObjectStore
from dermbatch.stored import write


def write_failure(
    store: ObjectStore,
    *,
    batch: str,
    index: int,
    name: str,
    source: str | None,
    reason: str,
    message: str,
    permanent: bool,
    attempts: int,
) -> None:
    """Write the failure record of an image from its fields; the time and the release are added.

    Raises:
        StoreUnavailable: If it could not be written; the failure must not be counted then.
    """
    record = FailureRecord(
        batch=batch,
        index=index,
        name=name,
        source=source,
        reason=reason,
        message=message,
        permanent=permanent,
        attempts=attempts,
        failed=datetime.now(UTC),
        software=__version__,
    )
    write(store, layout.failure(batch, index), record)
