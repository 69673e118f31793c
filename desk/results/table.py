"""The table of a batch as the desk reads it: a few columns at a time.

The one module of the desk that knows how the table of a closed batch lies in the object store. Of a batch that
still runs, the same columns are made of its records as they come.
"""

from __future__ import annotations

import io
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dermbatch import layout
from dermbatch.store import ObjectStore
from dermbatch.stored import read
from orchestrator.batches.outcomes import in_order
from orchestrator.reporting.table.parts import TableManifest

_WHOLE = 4 << 20
"""Bytes up to which a table's file is kept in memory."""

_LOCAL = 1 << 30
"""Bytes up to which it is brought to the disk; of a larger one, ranges are asked for."""

_AT_A_TIME = 8


class Table(Protocol):
    """Rows of one batch, in order of their indices.

    Attributes:
        version: Another one where the rows are others.
        rows: How many.
        names: Of the columns.
        pending: Outcomes that are there and not read yet.
    """

    version: str
    rows: int
    names: Sequence[str]
    pending: int

    def columns(self, names: Iterable[str]) -> dict[str, pa.ChunkedArray]:
        """Columns by name."""
        ...

    def groups(self) -> Iterator[tuple[npt.NDArray[np.intp], pa.Table]]:
        """All columns of some rows after the other, with their places; one group in memory at a time."""
        ...


@dataclass(frozen=True)
class Piece:
    """A Parquet file of a batch: where, which version, how long."""

    key: str
    etag: str | None
    size: int


def pieces(store: ObjectStore, batch: str) -> list[Piece]:
    """The files that the table of a closed batch is in: one, or a large one's parts; none where it has none."""
    key, manifest = layout.table(batch), layout.table_manifest(batch)
    there = {info.key: Piece(info.key, info.etag, info.size) for info in store.list(store.bucket, key)}
    if key in there:
        return [there[key]]
    if manifest not in there:
        return []
    parts = read(store, manifest, TableManifest).parts
    return [there[name] for part in parts if (name := f"{layout.table_parts(batch)}{part.name}") in there]


class Cache:
    """Columns that were read lately, up to so many bytes; shared by all threads."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._held: OrderedDict[tuple[str, str], pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, version: str, name: str) -> pa.ChunkedArray | None:
        """A column of a table of this version."""
        with self._lock:
            found = self._held.get((version, name))
            if found is not None:
                self._held.move_to_end((version, name))
            return found

    def put(self, version: str, name: str, column: pa.ChunkedArray) -> None:
        """Keep a column, and let go of those that were not asked for longest."""
        with self._lock:
            old = self._held.pop((version, name), None)
            self._bytes += column.nbytes - (old.nbytes if old is not None else 0)
            self._held[version, name] = column
            while self._bytes > self._most and len(self._held) > 1:
                self._bytes -= self._held.popitem(last=False)[1].nbytes


class Stored:
    """The table of a closed batch.

    Args:
        store: Where it is; the look at it is noted once.
        found: Its files.
        cache: Keeps columns.
    """

    pending = 0

    def __init__(self, store: ObjectStore, found: Sequence[Piece], cache: Cache) -> None:
        self._store, self._cache, self._reading = store, cache, threading.Lock()
        self.version = " ".join(f"{piece.key}@{piece.etag}" for piece in found)
        self._files = [(piece, _opened(store, piece)) for piece in found]
        self.rows = sum(file.metadata.num_rows for _, file in self._files)
        self.names: Sequence[str] = list(
            dict.fromkeys(name for _, file in self._files for name in file.schema_arrow.names)
        )
        self._order: npt.NDArray[np.intp] | None = None  # of rows that lie in several parts, each sorted by itself
        if len(self._files) > 1:
            self._order = np.argsort(np.asarray(self._lying(["index"])["index"]), kind="stable")

    def columns(self, names: Iterable[str]) -> dict[str, pa.ChunkedArray]:
        """Columns by name; only those that are not held are read."""
        held = {name: self._cache.get(self.version, name) for name in names}
        if missing := [name for name, column in held.items() if column is None]:
            for name, column in self._read(missing).items():
                self._cache.put(self.version, name, column)
                held[name] = column
        return {name: column for name, column in held.items() if column is not None}

    def groups(self) -> Iterator[tuple[npt.NDArray[np.intp], pa.Table]]:
        """All columns, a row group after the other as they lie."""
        places = np.arange(self.rows)
        if self._order is not None:
            places[self._order] = np.arange(self.rows)
        start = 0
        for _, file in self._files:
            for number in range(file.metadata.num_row_groups):
                with self._reading:
                    group = file.read_row_group(number)
                yield places[start : start + group.num_rows], group
                start += group.num_rows

    def _read(self, names: list[str]) -> dict[str, pa.ChunkedArray]:
        columns = self._lying(names)
        if self._order is not None:
            columns = {name: column.take(pa.array(self._order)) for name, column in columns.items()}
        found = {name: _lean(column) for name, column in columns.items()}
        del columns
        pa.default_memory_pool().release_unused()
        return found

    def _lying(self, names: list[str]) -> dict[str, pa.ChunkedArray]:
        """Columns in the order in which their rows lie in the files."""
        tables = []
        for piece, file in self._files:
            there = [name for name in names if name in file.schema_arrow.names]
            if piece.size <= _LOCAL:
                with self._reading:
                    tables.append(file.read(columns=there, use_threads=False))  # less memory at a time
            else:
                tables += self._by_ranges(piece, file, there)
        whole = pa.concat_tables(tables, promote_options="default").combine_chunks()
        return {name: whole.column(name) for name in names if name in whole.column_names}

    def _by_ranges(self, piece: Piece, file: pq.ParquetFile, names: list[str]) -> list[pa.Table]:
        def rows(number: int) -> pa.Table:
            with _ranged(self._store, piece, file.metadata) as own:  # a file each: reading moves its position
                return own.read_row_group(number, columns=names)

        return list(in_order(rows, range(file.metadata.num_row_groups), _AT_A_TIME))


def _lean(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column in less memory: numbers of single precision, texts that repeat by their codes."""
    if pa.types.is_float64(column.type):
        return column.cast(pa.float32())
    if pa.types.is_string(column.type) and len(column) and len(column.unique()) * 4 < len(column):
        return column.dictionary_encode()
    return column


def _opened(store: ObjectStore, piece: Piece) -> pq.ParquetFile:
    """A table's file: in memory where it is small, else on the disk, under no name; by ranges where it is huge.

    One request for a file, since there are stores for which a range costs as much as the whole.
    """
    if piece.size <= _WHOLE:
        return pq.ParquetFile(pa.BufferReader(store.get(store.bucket, piece.key)))
    if piece.size > _LOCAL:
        store.audit.note("read", f"s3://{store.bucket}/{piece.key}", size=piece.size)
        return _ranged(store, piece, None)
    with tempfile.NamedTemporaryFile(prefix="table-") as file:
        with Path(file.name).open("wb") as out:
            for chunk in store.chunks(store.bucket, piece.key):
                out.write(chunk)
        return pq.ParquetFile(pa.OSFile(file.name))


def _ranged(store: ObjectStore, piece: Piece, metadata: pq.FileMetaData | None) -> pq.ParquetFile:
    return pq.ParquetFile(_Spans(store, piece), metadata=metadata, pre_buffer=True)


class _Spans(io.RawIOBase):
    """A file whose bytes are asked for as they are read."""

    def __init__(self, store: ObjectStore, piece: Piece) -> None:
        super().__init__()
        self._store, self._piece, self._at = store, piece, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._piece.size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        start, end = self._at, self._piece.size if size < 0 else min(self._at + size, self._piece.size)
        self._at = max(start, end)
        if end <= start:
            return b""
        piece = self._piece
        return self._store.span(self._store.bucket, piece.key, start, end - start, etag=piece.etag)
