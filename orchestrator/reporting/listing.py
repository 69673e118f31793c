"""All results of a batch as the report lists them, one line each, in memory that does not grow with it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.reporting.table.columns import labels_of

LISTED = 100_000
"""Results that one report lists: some 10 MB, which a browser opens at once."""

_COLUMNS = ("index", "name", "flags")


class ListedResults:
    """The results with the lowest indices, up to :data:`LISTED`, in whatever order and pieces they come."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []

    def add(self, done: pa.Table) -> None:
        """Take in rows of results."""
        labels = [f"probability_{label}" for label in labels_of(done)]
        there = [name for name in (*_COLUMNS, *labels) if name in done.column_names]
        table = done.select(there)
        for name in labels:
            place = table.column_names.index(name)
            table = table.set_column(place, name, table.column(name).cast(pa.float32()))
        self._tables.append(table)
        if sum(len(table) for table in self._tables) > 2 * LISTED:
            self._tables = [self._lowest()]

    def json(self, labels: Sequence[str], flags: Sequence[str]) -> str:
        """``[index, name, probabilities, flags]`` of each: for these labels, with flags by number.

        May stand inside an element of HTML.
        """
        if not self._tables:
            return "[]"
        numbers = {flag: number for number, flag in enumerate(flags)}
        rows = []
        for row in self._lowest().to_pylist():
            p = [row.get(f"probability_{label}") for label in labels]
            shares = [round(one, 3) if one is not None else None for one in p] if any(p) else []
            raised = [numbers[flag] for flag in row["flags"] or () if flag in numbers]
            rows.append([row["index"], row.get("name") or f"image {row['index']}", shares, raised])
        text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
        return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")

    def _lowest(self) -> pa.Table:
        table = pa.concat_tables(self._tables, promote_options="default")
        return table.take(pc.sort_indices(table, [("index", "ascending")])).slice(0, LISTED)
