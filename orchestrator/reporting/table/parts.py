"""The parts in which a batch's table is written while results come, and what becomes of them.

Of a batch of up to :data:`ONE_FILE` images the table is one file, in the images' order, made of the parts when the
batch closes. Of a larger one the parts are the table: a folder of Parquet files, each in that order, and a
manifest that names them. Beside each part lie the counts of its rows, so that closing reads no part again. A part
is named by the digest of its bytes, so writing the same rows again after a crash gives the same part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from dermbatch import layout
from dermbatch.records.asked import Batch, Record
from dermbatch.records.row import NO_DICOM
from dermbatch.stages import ORDER
from dermbatch.store import ObjectStore
from dermbatch.stored import write
from orchestrator.batches.outcomes import in_order
from orchestrator.reporting.table import columns

ONE_FILE = 10_000
"""Images up to which a table is one file: some 60 MB."""

ROWS = 2_000
"""Rows of a part, except the last: as many wait in Redis, and are read again by closing after a crash."""

_PARQUET = "application/vnd.apache.parquet"
_LABELS = b"labels"
_COUNTS = ".counts"
_READERS = 8

_COUNTED = (
    "index",
    "outcome",
    "reason",
    NO_DICOM,
    "started",
    "finished",
    "seconds_waited",
    "flags",
    "label",
    "probability",
    "lesion",
    "confidence",
    "area_fraction",
    "occluded_fraction",
    *(f"{stage}_{what}" for stage in ORDER for what in ("model", "version", "sha256", "cached", "seconds")),
    *(f"{stage}_{what}" for stage in ORDER for what in ("billed_seconds", "model_seconds", "device")),
    "bytes_read",
    "bytes_stored",
)


class TablePart(Record):
    """A file of a table."""

    name: str
    rows: int
    first: int
    last: int
    bytes: int


class TableManifest(Record):
    """The files that a table is made of; ``results.parquet/_manifest.json``."""

    rows: int
    parts: tuple[TablePart, ...]


@dataclass(frozen=True)
class WrittenPart:
    """A part that was written.

    Attributes:
        key: Key of its file.
        size: Bytes of it.
        rows: How many it has.
        first, last: Images, by index.
        labels: Those that it has columns for.
    """

    key: str
    size: int
    rows: int
    first: int
    last: int
    labels: frozenset[str]


class Parts:
    """The parts of one batch.

    Args:
        store: Where they are.
        batch: Whose they are.
    """

    def __init__(self, store: ObjectStore, batch: Batch) -> None:
        self._store = store
        self.one_file = batch.images <= ONE_FILE
        self.prefix = layout.gathered(batch.name) if self.one_file else layout.table_parts(batch.name)
        self._batch = batch.name

    def write(self, rows: pa.Table, *, kept: bool = True) -> WrittenPart:
        """Write a part: its file, then its counts, without which it does not count.

        Args:
            rows: Of :func:`columns.rows_of`.
            kept: Whether its counts are written too; otherwise it is made again each time.
        """
        rows = columns.joined([rows])
        body = columns.written(rows)
        name = f"part-{rows['index'][0].as_py():09d}-{hashlib.sha256(body).hexdigest()[:12]}"
        labels = columns.labels_of(rows)
        shown = ["name", *(f"probability_{label}" for label in labels)]  # what the report lists
        counts = rows.select([*_COUNTED, *shown]).replace_schema_metadata({_LABELS: json.dumps(labels)})
        key = f"{self.prefix}{name}.parquet"
        self._store.put(key, body, _PARQUET)
        if kept:
            self._store.put(_counts_of(key), columns.as_parquet(counts), _PARQUET)
        return _part(key, len(body), counts, labels)

    def found(self) -> Iterator[tuple[WrittenPart, pa.Table]]:
        """The existing parts, each with the columns of its rows that are counted."""
        sizes = {info.key: info.size for info in self._store.list(self._store.bucket, self.prefix)}
        whole = (key for key in sorted(sizes) if key.endswith(".parquet") and _counts_of(key) in sizes)
        for key, counts in in_order(lambda key: (key, self._counts(key)), whole, _READERS):
            if not set(_COUNTED) <= set(counts.column_names):  # of an earlier version: its records are read
                continue
            labels = json.loads((counts.schema.metadata or {}).get(_LABELS, b"[]"))
            yield _part(key, sizes[key], counts, labels), counts

    def drop(self, images: Iterable[int]) -> None:
        """Drop the parts of these images, so that their rows are made from the records again."""
        wanted = np.fromiter(images, np.int64)
        for part, counts in self.found():
            if np.isin(np.asarray(counts["index"]), wanted).any():
                self._store.delete(_counts_of(part.key))
                self._store.delete(part.key)

    def read(self, part: WrittenPart) -> pa.Table:
        """The rows of a part."""
        return columns.read(self._store.get(self._store.bucket, part.key))

    def end(self, parts: Sequence[WrittenPart], tail: Sequence[pa.Table]) -> None:
        """Make the table from its parts and from rows that are in none.

        Args:
            parts: The parts that count.
            tail: The other rows if the table is one file; else there are none.
        """
        if self.one_file:
            tables = [columns.rows_of([]), *map(self.read, parts), *tail]
            self._store.put(layout.table(self._batch), columns.written(columns.joined(tables)), _PARQUET)
            return
        labels = frozenset[str]().union(*(part.labels for part in parts))
        same = [part if part.labels == labels else self._widened(part, labels) for part in parts]
        write(self._store, layout.table_manifest(self._batch), _manifest(same))
        self._tidy({part.key for part in same})

    def forget(self) -> None:
        """Delete what was gathered for a table that is one file."""
        self._store.delete_prefix(self._store.bucket, layout.gathered(self._batch))

    def _counts(self, key: str) -> pa.Table:
        return columns.read(self._store.get(self._store.bucket, _counts_of(key)))

    def _widened(self, part: WrittenPart, labels: frozenset[str]) -> WrittenPart:
        """The same part with columns for all labels, under its name."""
        body = columns.written(columns.with_labels(self.read(part), labels))
        self._store.put(part.key, body, _PARQUET)
        return replace(part, size=len(body), labels=labels)

    def _tidy(self, keys: set[str]) -> None:
        """Delete what an earlier or interrupted closing left beside these."""
        named = {_counts_of(key) for key in keys} | keys | {layout.table_manifest(self._batch)}
        for info in list(self._store.list(self._store.bucket, self.prefix)):
            if info.key not in named:
                self._store.delete(info.key)


def _counts_of(key: str) -> str:
    folder, _, name = key.rpartition("/")
    return f"{folder}/_{name.removesuffix('.parquet')}{_COUNTS}"


def _part(key: str, size: int, counts: pa.Table, labels: Iterable[str]) -> WrittenPart:
    index = counts["index"]
    return WrittenPart(key, size, len(counts), index[0].as_py(), index[-1].as_py(), frozenset(labels))


def _manifest(parts: Sequence[WrittenPart]) -> TableManifest:
    files = tuple(
        TablePart(
            name=part.key.rpartition("/")[2], rows=part.rows, first=part.first, last=part.last, bytes=part.size
        )
        for part in sorted(parts, key=lambda part: part.first)
    )
    return TableManifest(rows=sum(file.rows for file in files), parts=files)
