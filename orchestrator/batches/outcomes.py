"""The outcomes of a batch according to the object store: which images have one, and its record."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, RecordDamaged
from dermbatch.pictures import read_whole
from dermbatch.records.asked import Batch, ManifestEntry
from dermbatch.records.outcome import FailureRecord, ResultRecord
from dermbatch.records.row import Row, row_of
from dermbatch.store import ObjectStore
from dermbatch.stored import checked, parsed, read

_NONE, _FAILED, _DONE = range(3)
_LAST = f"{layout.PART_SIZE - 1}.json"
_LISTED_AT_ONCE = {"results": 10, "failed": 100}
"""Parts that one walk through a listing covers; walks run in parallel, since stores are slow to answer."""
_PARTS_AHEAD = 4
_AHEAD = 4
"""Items in work for each thread: bounds the memory taken by records that are read ahead."""

_T = TypeVar("_T")
_R = TypeVar("_R")


class OutcomeMarks:
    """Which images of a batch have a result, a failure, or neither; one byte an image."""

    def __init__(self, images: int) -> None:
        self._marks = bytearray(images)

    def set(self, index: int, *, done: bool) -> None:
        """Note a record; a result counts over a failure. What lies beyond the batch is passed over."""
        if 0 <= index < len(self._marks):
            self._marks[index] = max(self._marks[index], _DONE if done else _FAILED)

    def set_all(self, indices: npt.NDArray[np.int64], *, done: bool) -> None:
        """The same of many."""
        marks = np.frombuffer(self._marks, np.uint8)
        inside = indices[(indices >= 0) & (indices < len(marks))]
        marks[inside] = np.maximum(marks[inside], _DONE if done else _FAILED)

    def is_done(self, index: int) -> bool:
        """Whether the image has a result."""
        return self._marks[index] == _DONE

    def are_done(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """The same of many; of what lies beyond the batch, no."""
        marks = np.frombuffer(self._marks, np.uint8)
        done = (indices >= 0) & (indices < len(marks))
        done[done] = marks[indices[done]] == _DONE
        return done

    def missing(self, limit: int) -> tuple[int, ...]:
        """The first indices that have neither result nor failure, at most ``limit``."""
        found: list[int] = []
        at = self._marks.find(_NONE)
        while at >= 0 and len(found) < limit:
            found.append(at)
            at = self._marks.find(_NONE, at + 1)
        return tuple(found)

    def present(self) -> Iterator[int]:
        """Indices that have an outcome, in order."""
        return (index for index, mark in enumerate(self._marks) if mark != _NONE)


def read_marks(store: ObjectStore, batch: Batch, readers: int = 8) -> OutcomeMarks:
    """List which images have an outcome, by keys alone: no record is read.

    Args:
        store: Where the batch is.
        batch: What was asked.
        readers: Walks through the listing at a time.
    """
    marks = OutcomeMarks(batch.images)
    for walk, indices in in_order(lambda walk: (walk, _listed(store, walk)), _walks(batch), readers):
        marks.set_all(indices, done=walk.folder == "results")
    return marks


@dataclass(frozen=True)
class _Walk:
    """A piece of a listing of records.

    Attributes:
        folder: ``results`` or ``failed``.
        prefix: Prefix of its keys.
        after: The key that it begins behind.
        last: The last key that it may come to; none of the walk that goes to the end.
    """

    folder: str
    prefix: str
    after: str
    last: str | None


def _walks(batch: Batch) -> Iterator[_Walk]:
    parts = -(-batch.images // layout.PART_SIZE)
    for folder, size in _LISTED_AT_ONCE.items():
        prefix = f"{layout.batch_prefix(batch.name)}{folder}/"
        for first in range(0, max(1, parts), size):
            after = f"{prefix}{first:06d}/" if first else ""
            end = first + size
            yield _Walk(folder, prefix, after, f"{prefix}{end - 1:06d}/{_LAST}" if end < parts else None)


def _listed(store: ObjectStore, walk: _Walk) -> npt.NDArray[np.int64]:
    found = []
    for info in store.list(store.bucket, walk.prefix, start_after=walk.after):
        if walk.last is None or info.key <= walk.last:
            found.append(layout.index_of(info.key))
        if walk.last is not None and info.key >= walk.last:  # of a part that is full no more is asked for
            break
    return np.fromiter((index for index in found if index is not None), np.int64)


@dataclass(frozen=True)
class Outcome:
    """What became of one image."""

    entry: ManifestEntry
    record: ResultRecord | FailureRecord

    @property
    def row(self) -> Row:
        """Its row of the batch's table."""
        entry = self.entry
        return row_of(self.record, duplicate_of=entry.duplicate_of, bytes=entry.size, frame=entry.frame)


def read_outcome(store: ObjectStore, batch: Batch, entry: ManifestEntry, *, done: bool) -> Outcome:
    """The record of an image that has one.

    A record that cannot be read (because it was edited) is returned as a failure, ``record_damaged``: the other
    images of the batch must not wait for it.

    Raises:
        ObjectNotFound: If the record has been deleted since it was listed.
    """
    key = layout.result(batch.name, entry.index) if done else layout.failure(batch.name, entry.index)
    kind: type[ResultRecord | FailureRecord] = ResultRecord if done else FailureRecord
    try:
        record = read(store, key, kind)
    except RecordDamaged:
        return Outcome(entry, _damaged(batch, entry, key))
    if (record.batch, record.index) != (batch.name, entry.index):
        return Outcome(entry, _damaged(batch, entry, key))
    return Outcome(entry, record)


def entries(store: ObjectStore, batch: Batch, indices: Iterable[int]) -> Iterator[ManifestEntry]:
    """The manifest's entries with these indices, which ascend; a few parts in memory at a time.

    If the manifest is damaged, an entry without name or source stands in for a missing one.
    """
    by_part = ((part, list(some)) for part, some in groupby(indices, lambda index: layout.part_of(index)[0]))
    for found in in_order(lambda wanted: _of_part(store, batch.name, *wanted), by_part, _PARTS_AHEAD):
        yield from found


def outcomes(store: ObjectStore, batch: Batch, *, done: bool | None = None, readers: int = 8) -> Iterator[Outcome]:
    """What became of the images that have an outcome so far, by index; only a few are in memory at a time.

    Args:
        store: Where the batch is.
        batch: What was asked.
        done: Only results, or only failures of images without one.
        readers: Records read at a time.

    Raises:
        StoreUnavailable, StoreRefused: If the store fails.
    """
    marks = read_marks(store, batch)
    wanted = (index for index in marks.present() if done in {None, marks.is_done(index)})

    def look(entry: ManifestEntry) -> Outcome | None:
        with suppress(ObjectNotFound):  # deleted since then, to be tried again
            return read_outcome(store, batch, entry, done=marks.is_done(entry.index))
        return None

    return filter(None, in_order(look, entries(store, batch, wanted), readers))


def read_artifact(store: ObjectStore, record: ResultRecord, name: str) -> bytes:
    """A file that a stage made of an image, such as ``mask.png``, whole.

    Raises:
        ObjectNotFound: If no stage made one, or it was deleted.
        SourceGone: If it is kept as differences from the source, and that is gone.
        ArtifactDamaged: If it is not what was written.
        StoreUnavailable, StoreRefused: If the store fails.
    """
    for stage in record.stages.values():
        if name in stage.inline:
            return stage.inline[name]
        if name in stage.differences:
            return read_whole(store, record.source, stage, name)
        if name in stage.artifacts:
            return checked(store.get(store.bucket, stage.artifacts[name]), stage, name)
    raise ObjectNotFound(f"image {record.index} of batch {record.batch!r} has no {name}")


def in_order(function: Callable[[_T], _R], items: Iterable[_T], threads: int) -> Iterator[_R]:
    """``map`` with threads: results in the items' order, looking ahead only as far as keeps the threads busy.

    If an item raises, the error is raised in its turn, and no further item is begun.
    """
    waiting: deque[Future[_R]] = deque()
    with thread_pool(threads) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= threads * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def thread_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads of a generator; at its end nothing further is begun, and what is running is waited for.

    There is no waiting if the generator is dropped before its end. The garbage collector may drop it in a thread
    that is just starting and holds Python's thread locks: waiting for other threads there would never end.
    """
    pool, wait = ThreadPoolExecutor(threads), True
    try:
        yield pool
    except GeneratorExit:
        wait = False
        raise
    finally:
        pool.shutdown(wait=wait, cancel_futures=True)


def _of_part(store: ObjectStore, batch: str, part: str, indices: list[int]) -> list[ManifestEntry]:
    """Entries of one part; only the requested lines are parsed, as long as each is where it belongs."""
    try:
        lines = store.get(store.bucket, layout.manifest_part(batch, part)).splitlines()
    except ObjectNotFound:
        lines = []
    found = {entry.index: entry for index in indices if (entry := _at(lines, layout.part_of(index)[1], part))}
    if not found.keys() >= set(indices):
        entries = (_at(lines, position, part) for position in range(len(lines)))
        found = {entry.index: entry for entry in entries if entry}
    return [found.get(index) or ManifestEntry(index=index, name=f"image {index}") for index in indices]


def _at(lines: list[bytes], position: int, part: str) -> ManifestEntry | None:
    with suppress(RecordDamaged, IndexError):
        return parsed(lines[position], ManifestEntry, part)
    return None


def _damaged(batch: Batch, entry: ManifestEntry, key: str) -> FailureRecord:
    return FailureRecord(
        batch=batch.name,
        index=entry.index,
        name=entry.name,
        source=entry.source,
        reason="record_damaged",
        message=f"the record cannot be read; something other than Dermbatch has changed {key}",
        permanent=True,
        attempts=0,
        failed=batch.created,  # the time is unknown; not the current time, so that closing again gives the same
        software=batch.software,
    )
