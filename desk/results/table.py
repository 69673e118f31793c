"""The table of a batch as the desk reads it: a few columns at a time.

For a batch that is still running, the same columns are made from its records as they
come (:mod:`desk.results.running`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dermbatch.store import ObjectStore
from desk.results.files import Piece, opened
from orchestrator.batches.outcomes import in_order

_GROUPS = 40
"""Recently read row groups kept for the next look at their neighbours: some 12 MB."""

_SCATTERED, _SMALL = 12, 200_000
"""Number of row groups above which whole columns are read for a few rows, in tables of up to this many rows."""

_AT_A_TIME = 8

_BYTE = 128
"""Values that a signed byte can distinguish."""


Indices = npt.NDArray[np.integer[Any]]


class Table(Protocol):
    """Rows of one batch, in order of their indices.

    Attributes:
        version: Differs whenever the rows differ.
        rows: How many.
        names: Names of the columns.
        schema: Their names and types.
        pending: Outcomes that exist but are not read yet.
    """

    version: str
    rows: int
    names: Sequence[str]
    schema: pa.Schema
    pending: int

    @property
    def indices(self) -> Indices:
        """Of the images, ascending."""
        ...

    def columns(self, names: Iterable[str]) -> dict[str, pa.ChunkedArray]:
        """Columns by name."""
        ...

    def take(self, names: Sequence[str], rows: npt.NDArray[np.intp]) -> pa.Table:
        """Columns of a few rows, in this order; columns that do not exist are left out."""
        ...

    def groups(self, names: Sequence[str] | None = None) -> Iterator[tuple[npt.NDArray[np.intp], pa.Table]]:
        """Columns, some rows at a time, with the rows' places; all columns if none are named."""
        ...


class Cache:
    """Recently read columns, up to a number of bytes; shared by all threads."""

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
        """Keep a column, and drop the least recently used ones."""
        with self._lock:
            old = self._held.pop((version, name), None)
            self._bytes += column.nbytes - (old.nbytes if old is not None else 0)
            self._held[version, name] = column
            while self._bytes > self._most and len(self._held) > 1:
                self._bytes -= self._held.popitem(last=False)[1].nbytes


class ClosedTable:
    """The table of a closed batch.

    Args:
        store: Where it lies; access to it is logged once.
        found: Its files.
        cache: Keeps columns.
    """

    pending = 0

    def __init__(self, store: ObjectStore, found: Sequence[Piece], cache: Cache) -> None:
        self._cache = cache
        self.version = " ".join(f"{piece.key}@{piece.etag}" for piece in found)
        self._files = opened(store, found)
        self.rows = sum(file.rows for file in self._files)
        self.schema = self._files[0].schema
        self.names: Sequence[str] = self.schema.names
        self._order: npt.NDArray[np.intp] | None = None
        self._read_groups: OrderedDict[tuple[int, int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._lock, self._reading = threading.Lock(), threading.Lock()

    @cached_property
    def indices(self) -> Indices:
        """Indices of all images, in order. If none is missing, they are known without reading the files."""
        reaches = [file.reach for file in self._files if file.rows]
        if not reaches or (min(reaches)[0] == 0 and max(last for _, last in reaches) == self.rows - 1):
            return np.arange(self.rows, dtype=np.uint32)
        return np.asarray(self.columns(["index"])["index"])

    def columns(self, names: Iterable[str]) -> dict[str, pa.ChunkedArray]:
        """Columns by name; only those that are not held are read."""
        wanted = [name for name in dict.fromkeys(names) if name in self.names]
        held = self._held(wanted)
        if len(held) < len(wanted):
            with self._reading:  # what two ask for at the same time is read once
                held = self._held(wanted)
                for name, column in self._read([name for name in wanted if name not in held]).items():
                    self._cache.put(self.version, name, column)
                    held[name] = column
        return held

    def _held(self, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
        found = {name: self._cache.get(self.version, name) for name in names}
        return {name: column for name, column in found.items() if column is not None}

    def take(self, names: Sequence[str], rows: npt.NDArray[np.intp]) -> pa.Table:
        """Columns of a few rows, reading only the row groups they may be in, which are kept for a while.

        Widely scattered rows are taken from whole columns instead.
        """
        wanted = self.indices[rows]
        groups = self._groups_with(wanted)
        there = tuple(dict.fromkeys(["index", *(name for name in names if name in self.names)]))
        if len(groups) > _SCATTERED and self.rows <= _SMALL:
            return pa.table(self.columns(there)).take(pa.array(rows))
        found = pa.concat_tables(in_order(lambda at: self._group(*at, there), groups, _AT_A_TIME))
        own = np.asarray(found.column("index"))
        order = np.argsort(own, kind="stable")
        places = order[np.searchsorted(own, wanted, sorter=order)]
        return found.take(pa.array(places))

    def groups(self, names: Sequence[str] | None = None) -> Iterator[tuple[npt.NDArray[np.intp], pa.Table]]:
        """Columns (all if none are named), row group by row group as stored."""
        for file in self._files:
            for span in file.spans:
                columns = None if names is None else list(dict.fromkeys([*names, "index"]))
                group = file.read(columns, [span.group])
                yield np.searchsorted(self.indices, np.asarray(group.column("index"))), group

    def _groups_with(self, images: Indices) -> list[tuple[int, int]]:
        """Numbers of files, and of row groups in them, that may contain some of these images."""

        def some(first: int, last: int) -> bool:
            return bool(((images >= first) & (images <= last)).any())

        files = [(number, file) for number, file in enumerate(self._files) if file.rows and some(*file.reach)]
        return [
            (number, span.group) for number, file in files for span in file.spans if some(span.first, span.last)
        ]

    def _group(self, file: int, group: int, names: tuple[str, ...]) -> pa.Table:
        with self._lock:
            if (held := self._read_groups.pop((file, group, names), None)) is not None:
                self._read_groups[file, group, names] = held
                return held
        found = self._files[file].read(names, [group])
        with self._lock:
            self._read_groups[file, group, names] = found
            while len(self._read_groups) > _GROUPS:
                self._read_groups.popitem(last=False)
        return found

    def _read(self, names: list[str]) -> dict[str, pa.ChunkedArray]:
        if not names:
            return {}
        columns = self._lying(names if self._order is not None else [*dict.fromkeys([*names, "index"])])
        if self._order is None:
            self._order = np.argsort(np.asarray(columns["index"]), kind="stable").astype(np.uint32)
        order = pa.array(self._order)
        found = {name: _narrow(columns.pop(name).take(order)) for name in names}
        pa.default_memory_pool().release_unused()
        return found

    def _lying(self, names: list[str]) -> dict[str, pa.ChunkedArray]:
        """Columns with their rows in the order of the files."""
        tables = in_order(lambda file: _lean(file.read(names), self._repeating), self._files, _AT_A_TIME)
        whole = pa.concat_tables(tables, promote_options="default").unify_dictionaries().combine_chunks()
        return {name: whole.column(name) for name in names}

    @cached_property
    def _repeating(self) -> frozenset[str]:
        """Text columns with many equal values, judging by the first rows."""
        first = self._files[0]
        texts = [field.name for field in first.schema if pa.types.is_string(field.type)]
        table = first.read(texts, [0]) if first.spans else pa.table({})
        return frozenset(name for name in table.column_names if len(table[name].unique()) * 4 < table.num_rows)


def _narrow(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """One-byte codes, if there are few enough values."""
    if pa.types.is_dictionary(column.type) and all(len(one.dictionary) <= _BYTE for one in column.chunks):
        return column.cast(pa.dictionary(pa.int8(), column.type.value_type))
    return column


def _lean(table: pa.Table, repeating: frozenset[str]) -> pa.Table:
    """The columns in less memory: numbers in single precision, repeating texts as codes."""
    lean = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_float64(column.type):
            lean[name] = column.cast(pa.float32())
        else:
            lean[name] = column.dictionary_encode() if name in repeating else column
    return pa.table(lean)
