"""Parquet files of a table in the object store; a large batch's table is in parts, which are read by ranges.

The one module of the desk that knows how the table of a closed batch is stored.
"""

from __future__ import annotations

import io
import tempfile
import threading
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dermbatch import layout
from dermbatch.store import ObjectStore
from dermbatch.stored import read
from orchestrator.reporting.table.parts import TableManifest, TablePart

_WHOLE = 4 << 20
"""Bytes up to which a single-file table is kept in memory; a larger one is downloaded to disk."""

_LOCAL = 1 << 30
"""Bytes up to which it is downloaded; of a still larger one, ranges are read."""

_TAIL, _AT_ONCE = 96 << 10, 1 << 20
"""Bytes read to get a part's footer; and size up to which the whole part is read, to save a request."""

_GAP = 256 << 10
"""Unwanted bytes that are read anyway if that saves a request."""

_END = 8
"""Bytes after a footer: its length, and the magic number (Apache Parquet, file format)."""


@dataclass(frozen=True)
class Piece:
    """A Parquet file of a batch: place, version, length and, for a part, what the manifest says about it."""

    key: str
    etag: str | None
    size: int
    part: TablePart | None = None


def pieces(store: ObjectStore, batch: str) -> list[Piece]:
    """The files of a closed batch's table: a single one, or a large table's parts; empty if there are none."""
    key, manifest = layout.table(batch), layout.table_manifest(batch)
    there = {info.key: Piece(info.key, info.etag, info.size) for info in store.list(store.bucket, key)}
    if key in there:
        return [there[key]]
    if manifest not in there:
        return []
    parts = read(store, manifest, TableManifest).parts
    named = ((f"{layout.table_parts(batch)}{part.name}", part) for part in parts)
    return [Piece(name, there[name].etag, there[name].size, part) for name, part in named if name in there]


def opened(store: ObjectStore, found: Sequence[Piece]) -> list[Whole | PartFile]:
    """The files of a table, opened; nothing is read of parts yet."""
    if len(found) == 1 and found[0].part is None and found[0].size <= _LOCAL:
        return [Whole(store, found[0])]
    return [PartFile(store, piece) for piece in found]


@dataclass(frozen=True)
class RowSpan:
    """Rows of a file that are read together, and the first and last image among them."""

    group: int
    rows: int
    first: int
    last: int


class Whole:
    """A single-file table, in memory if it is small, else in an unnamed file on disk.

    It is read in one request, since for some stores a range costs as much as the whole.
    """

    def __init__(self, store: ObjectStore, piece: Piece) -> None:
        self._file, self._lock = _brought(store, piece), threading.Lock()
        self.schema: pa.Schema = self._file.schema_arrow
        self.spans = _spans_of(self._file.metadata)

    @property
    def rows(self) -> int:
        """How many."""
        return int(self._file.metadata.num_rows)

    @property
    def reach(self) -> tuple[int, int]:
        """The first and the last image."""
        return _reach(self.spans)

    def read(self, names: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> pa.Table:
        """Columns of row groups; all, where none are named."""
        wanted = range(self._file.num_row_groups) if groups is None else groups
        with self._lock:
            return self._file.read_row_groups(wanted, columns=names, use_threads=False)  # less memory at a time


class PartFile:
    """One of several files, of which only the bytes of wanted columns are read.

    The footer is kept in its packed form: parsed, that of 85 columns takes 30 times as much memory.
    """

    def __init__(self, store: ObjectStore, piece: Piece) -> None:
        self._store, self._piece = store, piece
        self._footer = b""
        self._spans: list[RowSpan] | None = None

    @property
    def rows(self) -> int:
        """How many."""
        part = self._piece.part
        return part.rows if part is not None else sum(span.rows for span in self.spans)

    @property
    def reach(self) -> tuple[int, int]:
        """The first and the last image."""
        part = self._piece.part
        return (part.first, part.last) if part is not None else _reach(self.spans)

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._known()[0].schema.to_arrow_schema()

    @property
    def spans(self) -> list[RowSpan]:
        """Its row groups."""
        if self._spans is None:
            self._spans = _spans_of(self._known()[0])
        return self._spans

    def read(self, names: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> pa.Table:
        """Columns of row groups; all, where none are named."""
        metadata, tail = self._known()
        wanted = range(metadata.num_row_groups) if groups is None else groups
        held = {} if tail is None else {self._piece.size - len(tail): tail}
        ranges = _ranges(metadata, wanted, names, self._piece.size - len(tail or b""))
        held |= {start: self.span(start, end) for start, end in ranges}
        file = pq.ParquetFile(_Held(self, self._piece.size, held), metadata=metadata)
        return file.read_row_groups(wanted, columns=names, use_threads=False)

    def _known(self) -> tuple[pq.FileMetaData, bytes | None]:
        """What the footer says, and the file's end if it has just been read."""
        if self._footer:
            return pq.read_metadata(pa.BufferReader(zlib.decompress(self._footer))), None
        self._store.audit.note("read", f"s3://{self._store.bucket}/{self._piece.key}", size=self._piece.size)
        start = self._piece.size - _TAIL if self._piece.size > _AT_ONCE else 0
        tail = self.span(start, self._piece.size)
        length = int.from_bytes(tail[-_END:][:4], "little") + _END
        if length > len(tail):
            tail = self.span(max(0, self._piece.size - length), self._piece.size)
        self._footer = zlib.compress(tail[-length:], 1)
        return pq.read_metadata(pa.BufferReader(tail[-length:])), tail

    def span(self, start: int, end: int) -> bytes:
        """Bytes of the file."""
        piece = self._piece
        return self._store.span(self._store.bucket, piece.key, start, end - start, etag=piece.etag)


def _ranges(
    metadata: pq.FileMetaData, groups: Iterable[int], names: Sequence[str] | None, end: int
) -> list[tuple[int, int]]:
    """Where the wanted columns that begin before ``end`` lie; columns near each other are merged."""
    wanted = None if names is None else set(names)
    found = list[tuple[int, int]]()
    for group in groups:
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            path = column.path_in_schema
            if wanted is not None and path not in wanted and path.partition(".")[0] not in wanted:
                continue
            start = column.data_page_offset
            if column.has_dictionary_page:
                start = min(start, column.dictionary_page_offset)
            found.append((start, start + column.total_compressed_size))
    return _joined(sorted(span for span in found if span[0] < end))


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined = list[tuple[int, int]]()
    for start, end in ranges:
        if joined and start - joined[-1][1] <= _GAP:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _spans_of(metadata: pq.FileMetaData) -> list[RowSpan]:
    """Row groups with their range of images, from the column's statistics."""
    at = metadata.schema.names.index("index")
    found = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        statistics = group.column(at).statistics
        found.append(RowSpan(number, group.num_rows, statistics.min, statistics.max))
    return found


def _reach(spans: Sequence[RowSpan]) -> tuple[int, int]:
    return min((span.first for span in spans), default=0), max((span.last for span in spans), default=-1)


def _brought(store: ObjectStore, piece: Piece) -> pq.ParquetFile:
    if piece.size <= _WHOLE:
        return pq.ParquetFile(pa.BufferReader(store.get(store.bucket, piece.key)))
    with tempfile.NamedTemporaryFile(prefix="table-") as file:
        with Path(file.name).open("wb") as out:
            for chunk in store.chunks(store.bucket, piece.key):
                out.write(chunk)
        return pq.ParquetFile(pa.OSFile(file.name))


class _Held(io.RawIOBase):
    """A file of which some ranges are at hand; any others are fetched."""

    def __init__(self, part: PartFile, size: int, held: dict[int, bytes]) -> None:
        super().__init__()
        self._part, self._size, self._held, self._at = part, size, held, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        start, end = self._at, self._size if size < 0 else min(self._at + size, self._size)
        self._at = max(start, end)
        return self._bytes(start, end) if start < end else b""

    def _bytes(self, start: int, end: int) -> bytes:
        for first, body in self._held.items():
            if first <= start and end <= first + len(body):
                return body[start - first : end - first]
        return self._part.span(start, end)
