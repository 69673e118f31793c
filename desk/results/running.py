"""Rows of a batch that is still running: made from its records as they come, each read once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dermbatch.errors import ObjectNotFound
from dermbatch.records.asked import Batch, ManifestEntry
from dermbatch.records.row import NO_DICOM, sent
from dermbatch.store import ObjectStore
from orchestrator.batches.outcomes import Outcome, OutcomeMarks, entries, in_order, read_marks, read_outcome
from orchestrator.reporting.table.columns import rows_of

AT_ONCE = 1000
"""Records that are read for one answer; the rest are left to later ones."""

_LOOK_EVERY = 1.0
_READERS = 8
_LEFT_OUT = ("embedding", "message")


class Running:
    """What is known about one running batch; shared by all threads."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._rows: dict[int, tuple[bool, str]] = {}
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._table: Made | None = None

    def table(self, store: ObjectStore, batch: Batch) -> Made:
        """The rows so far; looks for new ones at most once a second."""
        with self._lock:
            if self._table is None or time.monotonic() - self._looked > _LOOK_EVERY:
                self._table = self._look(store, batch)
                self._looked = time.monotonic()
            return self._table

    def _look(self, store: ObjectStore, batch: Batch) -> Made:
        marks = read_marks(store, batch)
        present = list(marks.present())
        for index in [index for index in self._rows if index not in set(present)]:
            del self._rows[index]  # to be tried again
        new = [index for index in present if (marks.is_done(index),) != self._rows.get(index, ())[:1]]
        for outcome in _read(store, batch, marks, new[:AT_ONCE]):
            row = outcome.row
            told = {name: value for name, value in row.items() if name not in _LEFT_OUT}
            self._rows[outcome.entry.index] = (row["outcome"] == "done", sent(told))
        if not new and self._table is not None:
            return self._table
        rows = [row for _, (_, row) in sorted(self._rows.items())]
        return Made(batch.name, rows, len(present) - len(rows))


class Made:
    """A table made from rows as they are sent."""

    def __init__(self, batch: str, rows: Sequence[str], pending: int) -> None:
        self._table = rows_of(rows).drop_columns([*_LEFT_OUT, NO_DICOM])
        self.version = f"{batch}@{len(rows)}-{pending}-{time.monotonic_ns()}"
        self.rows, self.pending = len(rows), pending
        self.schema = self._table.schema
        self.names: Sequence[str] = self._table.column_names

    def columns(self, names: Iterable[str]) -> dict[str, pa.ChunkedArray]:
        """Columns by name."""
        return {name: self._table.column(name) for name in names if name in self.names}

    @property
    def indices(self) -> npt.NDArray[np.int64]:
        """Indices of the images, ascending."""
        return np.asarray(self._table.column("index"))

    def take(self, names: Sequence[str], rows: npt.NDArray[np.intp]) -> pa.Table:
        """Columns of a few rows."""
        return self._table.select([name for name in names if name in self.names]).take(pa.array(rows))

    def groups(self, names: Sequence[str] | None = None) -> Iterator[tuple[npt.NDArray[np.intp], pa.Table]]:
        """Columns of all rows."""
        yield np.arange(self.rows), self._table if names is None else self._table.select(names)


def _read(store: ObjectStore, batch: Batch, marks: OutcomeMarks, indices: Sequence[int]) -> Iterable[Outcome]:
    def look(entry: ManifestEntry) -> Outcome | None:
        try:
            return read_outcome(store, batch, entry, done=marks.is_done(entry.index))
        except ObjectNotFound:
            return None

    return filter(None, in_order(look, entries(store, batch, islice(indices, AT_ONCE)), _READERS))
