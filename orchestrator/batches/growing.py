"""Batches that take in images one by one: their record is rewritten as they grow, by one writer at a time.

Each write names the version that it replaces (RFC 9110, 13.1.1), so a writer that was suspended, and goes on after
another has taken its place, is refused.
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
    """Write the record over the version with this ETag; none means that there must be no version yet.

    Returns:
        The new ETag; none, with nothing written, if the record has changed meanwhile.
    """
    return store.put_if_match(layout.batch_record(batch.name), batch.to_json(), JSON, etag)


def seal(store: ObjectStore, name: str) -> Batch:
    """Make a batch take in no more images, whoever else writes it. Harmless if it takes in none anyway.

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
