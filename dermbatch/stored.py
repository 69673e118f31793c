"""Reading and writing records in the object store; what is read is validated, because people edit them."""

from __future__ import annotations

import hashlib
from typing import TypeVar

from pydantic import ValidationError

from dermbatch.errors import ArtifactDamaged, NewerFormat, PermanentError, RecordDamaged
from dermbatch.records.asked import Record
from dermbatch.records.outcome import StageRecord, Written
from dermbatch.store import ObjectStore

JSON = "application/json"
JSON_LINES = "application/x-ndjson"

Kind = TypeVar("Kind", bound=Record)


def read(store: ObjectStore, key: str, kind: type[Kind]) -> Kind:
    """The record under a key of the result bucket.

    Raises:
        ObjectNotFound: If there is none.
        RecordDamaged: If the object is not a valid record of this kind.
        NewerFormat: If a later version wrote it.
        StoreUnavailable, StoreRefused: If the store fails.
    """
    return parsed(store.get(store.bucket, key), kind, f"{key} is damaged")


def read_if_any(store: ObjectStore, key: str, kind: type[Kind]) -> Kind | None:
    """The record under a key, or ``None`` if it cannot be read for any reason: for records one can do without.

    Raises:
        StoreUnavailable, StoreRefused: If trying again may help.
    """
    try:
        return read(store, key, kind)
    except (PermanentError, NewerFormat):  # a missing one is "forbidden" where keys may not be listed
        return None


def parsed(body: bytes, kind: type[Kind], where: str) -> Kind:
    """The record in these bytes.

    Raises:
        RecordDamaged: If it is not a valid record of this kind; the message is ``where`` and what is wrong.
        NewerFormat: As for :func:`read`.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise RecordDamaged(f"{where}: {_what(error)}") from error


def write(store: ObjectStore, key: str, record: Record) -> None:
    """Write a record, replacing any that exists.

    Raises:
        StoreUnavailable, StoreRefused: If it cannot be written.
    """
    store.put(key, record.to_json(), JSON)


def write_once(store: ObjectStore, key: str, record: Record) -> bool:
    """Write a record unless one exists: returns ``False`` then and writes nothing. Errors as for :func:`write`."""
    return store.put_if_absent(key, record.to_json(), JSON)


def written_as(body: bytes) -> Written:
    """Length and digest of a file, by which a record can tell later whether it was damaged."""
    return Written(bytes=len(body), sha256=hashlib.sha256(body).hexdigest())


def checked(body: bytes, record: StageRecord, name: str) -> bytes:
    """The bytes of an artifact, if they are those that were written. Without a digest (version 0.1.0), they pass.

    Raises:
        ArtifactDamaged: If they differ.
    """
    written = record.written.get(name)
    if written is not None and written_as(body) != written:
        raise damaged(record.artifacts[name], len(body), written)
    return body


def damaged(key: str, size: int, written: Written) -> ArtifactDamaged:
    """The error for a file that is not as it was written."""
    how = (
        f"it has {size:,} bytes of {written.bytes:,}" if size != written.bytes else "its digest is a different one"
    )
    return ArtifactDamaged(f"{key} is damaged: {how}")


def _what(error: ValidationError) -> str:
    """What is wrong, without the values: they may be a patient's name."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))
    return f"{field}: {first['type']}" if field else "it is no such record"
