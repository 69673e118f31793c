"""Records in the object store: read, checked since people edit them, and written."""

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
        ObjectNotFound: Where there is none.
        RecordDamaged: Where what is there is no such record.
        NewerFormat: Where a later version has written it.
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    return parsed(store.get(store.bucket, key), kind, f"{key} is damaged")


def read_if_any(store: ObjectStore, key: str, kind: type[Kind]) -> Kind | None:
    """The record under a key, of a kind that nothing depends on: none where none can be read, for whatever reason.

    Raises:
        StoreUnavailable, StoreRefused: Where trying again may help.
    """
    try:
        return read(store, key, kind)
    except (PermanentError, NewerFormat):  # a missing one is "forbidden" where keys may not be listed
        return None


def parsed(body: bytes, kind: type[Kind], where: str) -> Kind:
    """The record that is written here.

    Raises:
        RecordDamaged: Where it is no such record; ``where`` says so, and what is wrong follows.
        NewerFormat: As for :func:`read`.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise RecordDamaged(f"{where}: {_what(error)}") from error


def write(store: ObjectStore, key: str, record: Record) -> None:
    """Write a record, over what may be there.

    Raises:
        StoreUnavailable, StoreRefused: Where it could not be written.
    """
    store.put(key, record.to_json(), JSON)


def write_once(store: ObjectStore, key: str, record: Record) -> bool:
    """Write a record: ``False``, and nothing is written, where something is there already; errors as above."""
    return store.put_if_absent(key, record.to_json(), JSON)


def written_as(body: bytes) -> Written:
    """What a record says of a file, so that a damaged one is known."""
    return Written(bytes=len(body), sha256=hashlib.sha256(body).hexdigest())


def checked(body: bytes, record: StageRecord, name: str) -> bytes:
    """An artifact as it was written; one whose record has no digest (of an earlier version) is taken as it is.

    Raises:
        ArtifactDamaged: Where it is another.
    """
    written = record.written.get(name)
    if written is not None and written_as(body) != written:
        raise damaged(record.artifacts[name], len(body), written)
    return body


def damaged(key: str, size: int, written: Written) -> ArtifactDamaged:
    """The error of a file that is not what was written."""
    how = f"it has {size:,} bytes of {written.bytes:,}" if size != written.bytes else "its digest is another"
    return ArtifactDamaged(f"{key} is damaged: {how}")


def _what(error: ValidationError) -> str:
    """What is wrong, without the values: they may be a patient's name."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))
    return f"{field}: {first['type']}" if field else "it is no such record"
