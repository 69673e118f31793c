"""Batch records and manifest parts as they are read again: checked, since people edit them."""

from __future__ import annotations

from collections.abc import Iterator

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, PermanentError, RecordDamaged, UsageError
from dermbatch.records.asked import Batch, ManifestEntry
from dermbatch.store import ObjectStore
from dermbatch.stored import parsed


def batch_names(store: ObjectStore, tenant: str | None = None) -> Iterator[str]:
    """The names of all batches in the object store, or of one tenant's, whatever state they are in."""
    begins = ("",) if tenant is None else layout.owned_batches(tenant)
    return (f"{one}{rest}" for one in begins for rest in store.folders(store.bucket, layout.BATCHES + one))


def read_batch(store: ObjectStore, name: str) -> Batch:
    """The batch record.

    Raises:
        ObjectNotFound: If there is no such batch, or its plan never ended.
        PermanentError: With reason ``manifest_damaged``, if the record is damaged.
        NewerFormat: If a later version has written it.
    """
    return _batch(store.get(store.bucket, layout.batch_record(name)), name)


def read_version(store: ObjectStore, name: str) -> tuple[Batch, str | None]:
    """The batch record and its ETag, by which a write names the version that it replaces; errors as above."""
    body, etag = store.read(store.bucket, layout.batch_record(name))
    return _batch(body, name), etag


def named(store: ObjectStore, name: str) -> Batch:
    """The record of a batch that a user has named; other errors as above.

    Raises:
        UsageError: If there is none, or none can have this name.
    """
    try:
        return read_batch(store, layout.check_batch_name(name))
    except ObjectNotFound as error:
        raise UsageError(f"there is no batch {name!r}") from error


def asked(store: ObjectStore, name: str) -> Batch:
    """The record of a batch that is known to exist.

    Raises:
        PermanentError: With reason ``manifest_damaged``, if the record is damaged or gone.
    """
    try:
        return read_batch(store, name)
    except ObjectNotFound as error:
        raise _damaged(f"batch.json of batch {name!r} is missing") from error


def read_manifest_part(
    store: ObjectStore, batch: str, part: str, *, images: int | None = None, grown: bool = False
) -> list[ManifestEntry]:
    """The entries of one part of a manifest, in order of their indices.

    Args:
        store: Where it is.
        batch: Name of the batch.
        part: The part, as :func:`dermbatch.layout.part_of` names it.
        images: Images of the whole batch, according to batch.json. Without it, lines missing at the end of a part
            go unnoticed.
        grown: Whether the batch takes or took in images one by one: lines that batch.json does not count yet are
            then no damage, and are left out.

    Raises:
        PermanentError: With reason ``manifest_damaged``, if the part is not what planning wrote; the message names
            part and line.
        StoreUnavailable: If the store fails.
    """
    where = f"part {part} of the manifest of batch {batch!r} is damaged"
    first = int(part) * layout.PART_SIZE
    wanted = None if images is None else max(0, min(layout.PART_SIZE, images - first))
    try:
        body = store.get(store.bucket, layout.manifest_part(batch, part))
    except ObjectNotFound as error:
        raise _damaged(f"{where}: it is missing") from error
    entries = part_entries(body, batch, part, most=wanted if grown else None)
    if wanted is not None and len(entries) != wanted:
        at = min(len(entries), wanted) + 1
        raise _damaged(f"{where} at line {at}: it has {len(entries)} lines instead of {wanted}")
    return entries


def part_entries(body: bytes, batch: str, part: str, *, most: int | None = None) -> list[ManifestEntry]:
    """The entries in the body of a part; it may end with empty lines, and only the first ``most`` lines are read.

    Raises:
        PermanentError: With reason ``manifest_damaged``; the message names part and line.
    """
    where = f"part {part} of the manifest of batch {batch!r} is damaged"
    first = int(part) * layout.PART_SIZE
    lines = body.rstrip().splitlines()[:most]
    return [_entry(line, first + at, f"{where} at line {at + 1}") for at, line in enumerate(lines)]


def content_of(entry: ManifestEntry) -> str | None:
    """The fingerprint by which an entry looks like its copies, as :func:`dermbatch.layout.fingerprint` does."""
    return layout.fingerprint(entry.source, entry.etag, entry.size, entry.frame) if entry.source else None


def _batch(body: bytes, name: str) -> Batch:
    try:
        return parsed(body, Batch, f"batch.json of batch {name!r} is damaged")
    except RecordDamaged as error:
        raise _damaged(str(error)) from error


def _entry(line: bytes, index: int, where: str) -> ManifestEntry:
    try:
        entry = parsed(line, ManifestEntry, where)
    except RecordDamaged as error:
        raise _damaged(str(error)) from error
    if entry.index != index:
        wrong = f"it has index {entry.index} where {index} belongs"
        raise _damaged(f"{where}: {wrong}; lines are missing, duplicated or moved")
    if entry.duplicate_of is not None and entry.duplicate_of >= index:
        raise _damaged(f"{where}: duplicate_of is {entry.duplicate_of}, which is not an earlier index")
    return entry


def _damaged(message: str) -> PermanentError:
    return PermanentError(f"{message}; put the original back, or plan the images again", reason="manifest_damaged")
