"""A view of results: some batches, filtered by a query, in an order. Equal requests give equal views."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from desk.digests import digest
from desk.problems import Problem
from desk.results.query import ALIASES, Query, Truth
from desk.results.table import Table

CARD = (
    "index",
    "name",
    "outcome",
    "reason",
    "label",
    "probability",
    "flags",
    "height",
    "width",
    "duplicate_of",
    "frame",
    "diameter_mm",
    "area_fraction",
)
"""What a row says about an image, besides its probabilities."""

MADE = ("pixels", "uncertainty", "batch", "pseudonym")
"""Columns that are computed from others."""

PSEUDONYM = r"(?:^|/)(?P<p>P-[0-9a-f]{20})/"
"""How names of de-identified images begin if they say whose they are (``docs/privacy.md``)."""

_BINS = 20
_MOST_VALUES = 50
_ROWS = 1 << 16
"""Number of rows whose probabilities are processed at a time."""

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class ViewedBatch:
    """A batch of a view: its name, its table, and whether its images were de-identified."""

    name: str
    table: Table
    deidentified: bool = False


class View:
    """Results of one batch or several, the rows of the later ones after those of the earlier ones.

    Args:
        parts: The batches.
        query: Which rows.
        sort: Column to sort by, with ``-`` in front for descending order; by index if empty.
        sets: Sets by name: pairs of batch and index.
    """

    def __init__(
        self, parts: Sequence[ViewedBatch], query: Query, sort: str, sets: dict[str, set[tuple[str, int]]]
    ) -> None:
        self.parts, self._query, self._sort, self._sets = parts, query, sort, sets
        self.rows = sum(part.table.rows for part in parts)
        self.pending = sum(part.table.pending for part in parts)
        self._columns: dict[str, pa.ChunkedArray | None] = {}

    @cached_property
    def names(self) -> list[str]:
        """Names of all columns."""
        made = [name for name in MADE if name != "pseudonym" or any(part.deidentified for part in self.parts)]
        return [*dict.fromkeys(name for part in self.parts for name in part.table.names), *made]

    @cached_property
    def schema(self) -> pa.Schema:
        """Names and types of all columns that are stored, the batch in front."""
        stored = pa.unify_schemas([part.table.schema for part in self.parts], promote_options="permissive")
        return stored.insert(0, pa.field("batch", pa.string()))

    @property
    def labels(self) -> list[str]:
        """Classes that have probabilities."""
        return [name.removeprefix("probability_") for name in self.names if name.startswith("probability_")]

    @cached_property
    def fingerprint(self) -> str:
        """Differs if batches, query or order differ; stays the same while a running batch grows."""
        return digest(*(part.name for part in self.parts), self._query.text, self._sort)

    @cached_property
    def version(self) -> str:
        """Differs whenever anything that the view shows may differ."""
        members = sorted((name, len(found), digest(*sorted(found))) for name, found in self._sets.items())
        return digest(self.fingerprint, *(part.table.version for part in self.parts), members)

    def column(self, name: str) -> pa.ChunkedArray | None:
        """A column across all batches; none if there is no such column."""
        if name not in self._columns:
            self._columns[name] = self._made(name) if name in MADE else self._read(name)
        return self._columns[name]

    def load(self, names: Iterable[str]) -> None:
        """Read several columns at once, which takes less time than one after the other."""
        wanted = [name for name in names if name not in self._columns and name not in MADE]
        for part in self.parts:
            part.table.columns([name for name in wanted if name in part.table.names])

    @cached_property
    def chosen(self) -> Truth:
        """Which rows match the query."""
        return self._query.rows(self.rows, self.column, self._members)

    @cached_property
    def order(self) -> Rows:
        """Numbers of the rows that match the query, in order; rows without a value come last."""
        rows = np.flatnonzero(self.chosen)
        name = ALIASES.get(self._sort.removeprefix("-"), self._sort.removeprefix("-"))
        if name in {"", "index"}:
            return rows[::-1] if self._sort.startswith("-") else rows
        column = self.column(name)
        if column is None or pa.types.is_nested(column.type):
            raise Problem(
                400, "bad_query", f"results cannot be sorted by {name!r}", at={"in": "query", "parameter": "sort"}
            )
        way = "descending" if self._sort.startswith("-") else "ascending"
        if pa.types.is_dictionary(column.type):
            column = column.cast(pa.string())
        table = pa.table({"by": column.take(pa.array(rows)), "row": rows})
        keys = [("by", way), ("row", "ascending")]
        places: Rows = pc.sort_indices(table, sort_keys=keys).to_numpy()
        return np.asarray(rows[places], np.intp)

    def pairs(self, rows: Rows) -> npt.NDArray[np.uint32]:
        """Number of the batch and index of each row, uint32 [n, 2]."""
        found = np.empty((len(rows), 2), np.uint32)
        found[:, 0] = np.searchsorted(self._ends, rows, side="right")
        for number, part in enumerate(self.parts):
            own = found[:, 0] == number
            found[own, 1] = part.table.indices[rows[own] - self._starts[number]]
        return found

    def row_of(self, batch: int, index: int) -> int | None:
        """The row of an image; none if it has no outcome, or its batch is not in the view."""
        if not 0 <= batch < len(self.parts):
            return None
        own = self.parts[batch].table.indices
        at = int(np.searchsorted(own, index))
        return int(self._starts[batch]) + at if at < len(own) and own[at] == index else None

    def cards(self, rows: Rows) -> list[dict[str, Any]]:
        """What is shown of these rows."""
        names = [*CARD, *(f"probability_{label}" for label in self.labels)]
        owners = np.searchsorted(self._ends, rows, side="right")
        cards: list[dict[str, Any]] = [{}] * len(rows)
        for number in np.unique(owners):
            places = np.flatnonzero(owners == number)
            part = self.parts[number]
            taken = part.table.take(names, rows[places] - self._starts[number]).to_pylist()
            for place, row in zip(places, taken, strict=True):
                cards[place] = self._card(part.name, row)
        return cards

    def named(self, rows: Rows) -> list[tuple[str, int]]:
        """Batch and index of the images of these rows."""
        return [(self.parts[batch].name, index) for batch, index in self.pairs(rows).tolist()]

    def only(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Keep only these images among those that match the query: number of the batch and index of each."""
        rows = [row for batch, index in pairs if (row := self.row_of(batch, index)) is not None]
        named = np.zeros(self.rows, np.bool_)
        named[rows] = True
        self.__dict__["chosen"] = self.chosen & named

    def tables(self, names: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Matching rows, group by group as stored: the batch, and columns (all if none are named)."""
        for part, start in zip(self.parts, self._starts, strict=True):
            for places, group in part.table.groups(names):
                found = group.filter(pa.array(self.chosen[start + places]))
                if found.num_rows:
                    yield found.add_column(0, "batch", pa.array([part.name] * found.num_rows))

    def facets(self) -> dict[str, Any]:
        """How many matching images have each value, and how numbers are distributed."""
        self.load(
            [
                "label",
                "outcome",
                "reason",
                "flags",
                "probability",
                "height",
                "width",
                "classify_model",
                "segment_model",
                *(f"probability_{label}" for label in self.labels),
            ]
        )
        rows = None if self.chosen.all() else pa.array(np.flatnonzero(self.chosen))
        taken = {
            name: column if rows is None else column.take(rows)
            for name in (
                "label",
                "outcome",
                "reason",
                "flags",
                "classify_model",
                "segment_model",
                "batch",
                "pseudonym",
            )
            if (column := self.column(name)) is not None
        }
        return {
            "total": int(self.chosen.sum()),
            "values": {name: _counts(column) for name, column in taken.items()},
            "spreads": {
                name: _spread(column if rows is None else column.take(rows))
                for name in ("probability", "uncertainty", "pixels")
                if (column := self.column(name)) is not None
            },
        }

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        return np.cumsum([part.table.rows for part in self.parts], dtype=np.int64)

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        return self._ends - np.array([part.table.rows for part in self.parts], np.int64)

    def _card(self, batch: str, row: dict[str, Any]) -> dict[str, Any]:
        by_label = {label: row.get(f"probability_{label}") for label in self.labels}
        probabilities = {label: p for label, p in by_label.items() if p is not None}
        return {
            "batch": batch,
            **{name: row[name] for name in CARD if name in row},
            "probabilities": probabilities,
        }

    def _read(self, name: str) -> pa.ChunkedArray | None:
        found = [part.table.columns([name]).get(name) for part in self.parts]
        if all(column is None for column in found):
            return None
        kind = next(column.type for column in found if column is not None)
        if pa.types.is_dictionary(kind):
            kind = pa.string() if len(found) > 1 else kind
        chunks = [
            column.cast(kind) if column is not None else pa.chunked_array([pa.nulls(part.table.rows, kind)])
            for column, part in zip(found, self.parts, strict=True)
        ]
        return pa.chunked_array([chunk for column in chunks for chunk in column.chunks], kind)

    def _made(self, name: str) -> pa.ChunkedArray | None:
        if name == "batch":
            codes = np.repeat(np.arange(len(self.parts)), [part.table.rows for part in self.parts])
            values = pa.DictionaryArray.from_arrays(
                pa.array(codes, pa.int32()), [part.name for part in self.parts]
            )
            return pa.chunked_array([values])
        if name == "pixels":
            height, width = self.column("height"), self.column("width")
            return None if height is None or width is None else pc.multiply(height.cast(pa.int64()), width)
        if name == "pseudonym":
            names = self.column("name") if any(part.deidentified for part in self.parts) else None
            return None if names is None else pc.struct_field(pc.extract_regex(names, PSEUDONYM), "p")
        return self._uncertainty()

    def _uncertainty(self) -> pa.ChunkedArray | None:
        """Entropy of the probabilities relative to that of equal ones, 0 to 1; null if there are none."""
        labels = self.labels
        self.load([f"probability_{label}" for label in labels])
        columns = [column for label in labels if (column := self.column(f"probability_{label}")) is not None]
        if len(columns) < 2:
            return None
        starts = range(0, self.rows, _ROWS)
        some = [_entropy([column.slice(start, _ROWS) for column in columns]) for start in starts]
        return pa.chunked_array(some, pa.float32())

    def _members(self, name: str) -> Truth:
        found = np.zeros(self.rows, np.bool_)
        numbers = {part.name: number for number, part in enumerate(self.parts)}
        for batch, index in self._sets.get(name, ()):
            row = self.row_of(numbers.get(batch, -1), index)
            if row is not None:
                found[row] = True
        return found


def _entropy(columns: Sequence[pa.ChunkedArray]) -> pa.Array:
    p = np.stack([np.asarray(column.to_numpy(), np.float32) for column in columns])
    known = np.isfinite(p).any(axis=0)
    p = np.clip(np.nan_to_num(p), 1e-9, 1)
    entropy = -(p * np.log(p)).sum(axis=0) / np.log(len(columns))
    return pa.array(entropy.astype(np.float32), mask=~known)


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    if pa.types.is_list(column.type):
        column = pc.list_flatten(column)
    counted = [(one["values"], one["counts"]) for one in pc.value_counts(column.drop_null()).to_pylist()]
    return dict(sorted(counted, key=lambda pair: (-pair[1], pair[0]))[:_MOST_VALUES])


def _spread(column: pa.ChunkedArray) -> dict[str, Any] | None:
    values = np.asarray(column.drop_null().to_numpy(), np.float64)
    if not len(values):
        return None
    low, high = (0.0, 1.0) if values.max() <= 1 else (float(values.min()), float(values.max()))
    counts, _ = np.histogram(values, _BINS, (low, high))
    return {"low": low, "high": high, "counts": counts.tolist()}
