"""Checks that a batch in the store is what was written: readable records, and files as the records say.

One part of the batch, and one piece of each of a few files, are in memory at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from dermbatch import layout
from dermbatch.errors import DermbatchError, NewerFormat, ObjectBrokeOff, PermanentError, SourceGone
from dermbatch.pictures import read_whole
from dermbatch.records.asked import Batch
from dermbatch.records.outcome import FailureRecord, ResultRecord, StageRecord, Written
from dermbatch.store import ObjectStore
from dermbatch.stored import damaged, read
from orchestrator.batches.entries import read_manifest_part
from orchestrator.batches.outcomes import in_order

_READERS = 8


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what was wrong.

    Attributes:
        results: Result records.
        failures: Failure records of images without a result.
        files: Files that were read, each as its record says.
        bytes: Of them.
        unchecked: Existing files whose record, of an earlier version, has no digest.
        bad: Records and files that are gone, damaged, or cannot be read.
    """

    results: int = 0
    failures: int = 0
    files: int = 0
    bytes: int = 0
    unchecked: int = 0
    bad: int = 0

    def __add__(self, other: Verified) -> Verified:
        return Verified(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class _Looked:
    counts: Verified
    complaints: tuple[str, ...] = ()


def verify(store: ObjectStore, batch: Batch, tell: Callable[[str], None]) -> Verified:
    """Check a batch's manifest, records and files.

    The cached results of an image with a damaged file are dropped, so that submitting it again creates them again.

    Args:
        store: Where it is.
        batch: Its record.
        tell: Called with a sentence for each thing that is wrong; it names the key.

    Raises:
        StoreUnavailable, StoreRefused: If the store fails.
    """
    total = Verified()
    for first in range(0, batch.images, layout.PART_SIZE):
        part, _ = layout.part_of(first)
        looked = [_manifest(store, batch, part)]
        done = _indices(store, f"{layout.batch_prefix(batch.name)}results/{part}/", first)
        failed = _indices(store, f"{layout.batch_prefix(batch.name)}failed/{part}/", first) - done
        looked += [_failure(store, batch, index) for index in sorted(failed)]
        looked += _missing(batch, set(range(first, min(first + layout.PART_SIZE, batch.images))) - done - failed)
        for one in (*looked, *in_order(lambda index: _result(store, batch, index), sorted(done), _READERS)):
            total += one.counts
            for sentence in one.complaints:
                tell(sentence)
    return total


def _indices(store: ObjectStore, prefix: str, first: int) -> set[int]:
    names = (info.key.rpartition("/")[2].removesuffix(".json") for info in store.list(store.bucket, prefix))
    return {first + int(name) for name in names if name.isdecimal()}


def _missing(batch: Batch, indices: set[int]) -> Iterator[_Looked]:
    for index in sorted(indices):
        yield _wrong(
            f"{layout.result(batch.name, index)} does not exist, nor does a failure: the image is not finished, "
            f"or its record is lost"
        )


def _manifest(store: ObjectStore, batch: Batch, part: str) -> _Looked:
    try:
        read_manifest_part(store, batch.name, part, images=batch.images, grown=batch.rule is not None)
    except (PermanentError, NewerFormat, ObjectBrokeOff) as error:
        return _wrong(f"{layout.manifest_part(batch.name, part)}: {error}")
    return _Looked(Verified())


def _failure(store: ObjectStore, batch: Batch, index: int) -> _Looked:
    key = layout.failure(batch.name, index)
    try:
        read(store, key, FailureRecord)
    except (PermanentError, NewerFormat, ObjectBrokeOff) as error:
        return _wrong(f"{key}: {error}")
    return _Looked(Verified(failures=1))


def _result(store: ObjectStore, batch: Batch, index: int) -> _Looked:
    key = layout.result(batch.name, index)
    try:
        record = read(store, key, ResultRecord)
    except (PermanentError, NewerFormat, ObjectBrokeOff) as error:
        return _wrong(f"{key}: {error}")
    counts, complaints = Verified(results=1), []
    damaged_files = False
    for name, look in _looks(store, record):
        try:
            counts += look()
        except (PermanentError, ObjectBrokeOff) as error:
            counts += Verified(bad=1)
            complaints.append(f"{key}: {error}" if name in str(error) else f"{key}: {name}: {error}")
            damaged_files |= not isinstance(error, SourceGone)
    if damaged_files:
        with suppress(DermbatchError):
            store.delete(layout.known_of(record.source.sha256, layout.pool_of(record.preview)))
    return _Looked(counts, tuple(complaints))


def _looks(store: ObjectStore, record: ResultRecord) -> Iterator[tuple[str, Callable[[], Verified]]]:
    """The files of an image by their keys, each with what looks at it."""
    for stage in record.stages.values():
        for name, key in stage.artifacts.items():
            if name in stage.differences:
                yield key, partial(_picture, store, record, stage, name)
            elif name not in stage.inline:
                yield key, partial(_file, store, key, stage.written.get(name))
    for kind, key in record.dicom.items():
        yield key, partial(_file, store, key, record.dicom_written.get(kind))


def _picture(store: ObjectStore, record: ResultRecord, stage: StageRecord, name: str) -> Verified:
    """A picture kept as differences from its source: check that it can be restored as it was."""
    read_whole(store, record.source, stage, name)
    return Verified(files=1, bytes=stage.differences[name].written.bytes)


def _file(store: ObjectStore, key: str, written: Written | None) -> Verified:
    if written is None:
        store.stat(store.bucket, key)
        return Verified(unchecked=1)
    digest, size = hashlib.sha256(), 0
    for chunk in store.chunks(store.bucket, key):
        digest.update(chunk)
        size += len(chunk)
    if Written(bytes=size, sha256=digest.hexdigest()) != written:
        raise damaged(key, size, written)
    return Verified(files=1, bytes=size)


def _wrong(sentence: str) -> _Looked:
    return _Looked(Verified(bad=1), (sentence,))
