"""Batches that take images in one by one: their record is written anew as they grow, by one writer at a time.

Each write names the version that it replaces (RFC 9110, 13.1.1), so that a writer that was stopped, and goes on
when another has taken its place, is refused and learns it.
"""

from __future__ import annotations

from dermbatch import layout
from dermbatch.errors import StoreUnavailable
from dermbatch.records.asked import Batch
from dermbatch.store import ObjectStore
from dermbatch.stored import JSON
from orchestrator.batches.entries import read_version

_TRIES = 20


def write_batch(store: ObjectStore, batch: Batch, etag: str | None) -> str | None:
    """Write the record over the version with this ETag, none where there is to be none.

    Returns:
        The new ETag; none, and nothing is written, where the record is another by now.
    """
    return store.put_if_match(layout.batch_record(batch.name), batch.to_json(), JSON, etag)


def seal(store: ObjectStore, name: str) -> Batch:
    """Have a batch take in no more images, whoever else writes it. Harmless where it takes in none.

    Raises:
        ObjectNotFound: If there is no such batch.
        PermanentError: With reason ``manifest_damaged``, where the record is no record.
        StoreUnavailable: If the store fails.
    """
    for _ in range(_TRIES):
        batch, etag = read_version(store, name)
        sealed = batch.model_copy(update={"growing": False})
        if not batch.growing or write_batch(store, sealed, etag) is not None:
            return sealed
    raise StoreUnavailable(f"batch {name!r} grows too fast to be sealed; trying again")
