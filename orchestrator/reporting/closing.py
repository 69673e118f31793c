"""How a batch closes: every outcome is read once, and table, report, comparison and summary are written of it.

Nothing here needs Redis, and nothing is kept between two calls: a batch whose closing was cut off is closed again,
with the same outcome. The summary is written last; where it is, the rest is whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dermbatch import layout
from dermbatch.errors import ObjectNotFound
from dermbatch.records import Batch, BatchSummary, ManifestEntry
from dermbatch.records.stored import write
from dermbatch.store import ObjectStore
from orchestrator.batches.outcomes import Marks, Outcome, audit, entries, in_order, read_outcome
from orchestrator.batches.summary import Tally
from orchestrator.reporting.comparison import Compared, ComparisonTable, compare
from orchestrator.reporting.differences import Differences
from orchestrator.reporting.report import Report
from orchestrator.reporting.table import TableWriter

_PARQUET = "application/vnd.apache.parquet"
_HTML = "text/html; charset=utf-8"
_MISSING_AT_A_TIME = 10_000


@dataclass(frozen=True)
class Closing:
    """How it went: a summary, or the indices of images without a record, of which not all need be named."""

    missing: tuple[int, ...] = ()
    summary: BatchSummary | None = None


def close(
    store: ObjectStore, batch: Batch, state: Literal["finished", "cancelled"], slots: int, readers: int
) -> Closing:
    """Write what a batch ends with, if the store holds a record of every image.

    Memory does not grow with the batch but for a byte an image. Safe to repeat; takes minutes for 100,000 images.

    Args:
        store: Where the batch is.
        batch: What was asked.
        state: ``cancelled`` where images may be left without a record; else such images are given back, and
            nothing is written.
        slots: Worker slots heard of, for the summary.
        readers: Records read at a time.

    Raises:
        StoreUnavailable, StoreRefused: Where the store fails; the batch is not closed then.
    """
    marks = audit(store, batch)
    if state == "finished" and (missing := marks.missing(_MISSING_AT_A_TIME)):
        return Closing(missing)
    with tempfile.TemporaryDirectory(prefix="dermbatch-closing-") as name:
        return _write(store, batch, state, slots, _outcomes(store, batch, marks, readers), Path(name))


def _write(
    store: ObjectStore,
    batch: Batch,
    state: Literal["finished", "cancelled"],
    slots: int,
    outcomes: Iterator[_Found | _Gone],
    folder: Path,
) -> Closing:
    tally, report, differences = Tally(), Report(batch), Differences(batch)
    rows, compared_rows = folder / "results.parquet", folder / "comparison.parquet"
    with TableWriter(rows, folder / "draft") as table, ComparisonTable(compared_rows) as compared_table:
        for found in outcomes:
            if isinstance(found, _Gone):
                return Closing((found.index,))
            tally.add(found.outcome)
            table.add(found.outcome)
            report.add(found.outcome)
            if found.compared is not None:
                compared_table.add(found.compared)
                differences.add(found.compared)
    store.put_file(layout.table(batch.name), rows, _PARQUET)
    store.put(layout.report(batch.name), report.html(tally, state), _HTML)
    if batch.order.compared_with:
        store.put_file(layout.comparison_table(batch.name), compared_rows, _PARQUET)
        store.put(layout.comparison(batch.name), differences.html(store), _HTML)
    summary = tally.summary(batch, state, slots)
    write(store, layout.summary(batch.name), summary)
    return Closing(summary=summary)


@dataclass(frozen=True)
class _Found:
    outcome: Outcome
    compared: Compared | None


@dataclass(frozen=True)
class _Gone:
    """The record was deleted after it had been listed."""

    index: int


def _outcomes(store: ObjectStore, batch: Batch, marks: Marks, readers: int) -> Iterator[_Found | _Gone]:
    def look(entry: ManifestEntry) -> _Found | _Gone:
        try:
            outcome = read_outcome(store, batch, entry, done=marks.is_done(entry.index))
        except ObjectNotFound:
            return _Gone(entry.index)
        return _Found(outcome, compare(store, outcome) if batch.order.compared_with else None)

    return in_order(look, entries(store, batch, marks.present()), readers)
