"""How a batch closes: table, report, comparison and summary are written from its outcomes.

Workers send a row of the table with each result. They are gathered into parts of the table while the batch runs
(:func:`gather`), so closing checks that every record exists, counts what the parts say, and reads only records
without a row: those of images that failed, or whose row was lost on the way.

Nothing here needs Redis, and what was gathered only saves time: a batch whose closing was interrupted is closed
again, with the same outcome. The summary is written last; once it exists, the rest is complete.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog

from dermbatch import layout
from dermbatch.errors import ObjectNotFound
from dermbatch.records.asked import Batch, BatchSummary, ManifestEntry
from dermbatch.records.outcome import FailureRecord, ResultRecord
from dermbatch.records.row import sent
from dermbatch.store import ObjectStore
from dermbatch.stored import write
from orchestrator.batches.outcomes import (
    Outcome,
    OutcomeMarks,
    entries,
    in_order,
    outcomes,
    read_marks,
    read_outcome,
)
from orchestrator.batches.summary import Tally
from orchestrator.metering.accounts import Accounts
from orchestrator.metering.bill import Costs
from orchestrator.metering.events import Events, UsageManifest
from orchestrator.metering.signature import signed
from orchestrator.reporting.comparison import Compared, ComparisonTable, compare
from orchestrator.reporting.differences import Differences
from orchestrator.reporting.report import SHOWN, Report
from orchestrator.reporting.table import columns
from orchestrator.reporting.table import parts as table_parts
from orchestrator.reporting.table.columns import rows_of
from orchestrator.reporting.table.parts import Parts, WrittenPart

_log = structlog.get_logger(__name__)

_PARQUET = "application/vnd.apache.parquet"
_HTML = "text/html; charset=utf-8"
_MISSING_AT_A_TIME = 10_000
_ROWS_AT_A_TIME = 500

State = Literal["finished", "cancelled"]


@dataclass(frozen=True)
class Closing:
    """How it went: a summary, or indices of images without a record, not necessarily all of them."""

    missing: tuple[int, ...] = ()
    summary: BatchSummary | None = None


def gather(store: ObjectStore, batch: Batch, lines: Sequence[str]) -> None:
    """Write rows that workers sent into a part of the table; repeating it gives the same part.

    Raises:
        StoreUnavailable, StoreRefused: If the store fails.
    """
    rows = _newest(_known(lines))
    if len(rows):
        Parts(store, batch).write(rows)


def close(
    store: ObjectStore,
    batch: Batch,
    state: State,
    slots: int,
    readers: int,
    lines: Sequence[str] = (),
    accounts: Accounts = Accounts(),  # noqa: B008 - it is frozen
) -> Closing:
    """Write what ends a batch, if the store holds a record of every image.

    Memory does not grow with the batch, except for two bytes an image. Safe to repeat.

    Args:
        store: Where the batch is.
        batch: What was asked.
        state: ``cancelled`` if images may be left without a record; otherwise such images are returned, and
            nothing is written.
        slots: Worker slots heard of, for the summary.
        readers: Records read at a time.
        lines: Rows that workers sent and that are not in a part yet.
        accounts: Price lists, and the key that the report is signed with.

    Raises:
        StoreUnavailable, StoreRefused: If the store fails; the batch is not closed then.
    """
    marks = read_marks(store, batch, readers)
    if state == "finished" and (missing := marks.missing(_MISSING_AT_A_TIME)):
        return _left(store, batch, missing)
    with tempfile.TemporaryDirectory(prefix="dermbatch-closing-") as name:
        ending = _Ending(store, batch, marks, readers, Path(name))
        try:
            return _write(ending, state, slots, lines, accounts)
        except _GoneError as gone:
            return _left(store, batch, (gone.index,))


def write_usage(store: ObjectStore, batch: Batch) -> UsageManifest:
    """Write the usage events of a closed batch once more, from its records.

    Raises:
        StoreUnavailable, StoreRefused: If the store fails.
    """
    with tempfile.TemporaryDirectory(prefix="dermbatch-usage-") as folder:
        events = Events(batch, Path(folder))
        found = outcomes(store, batch, done=True)
        while lines := [sent(outcome.row) for outcome in islice(found, _ROWS_AT_A_TIME)]:
            events.add(rows_of(lines))
        return events.write(store)


def _left(store: ObjectStore, batch: Batch, missing: tuple[int, ...]) -> Closing:
    """Not closed; what was gathered of images whose records are gone must not be used."""
    Parts(store, batch).drop(missing)
    return Closing(missing)


def _write(ending: _Ending, state: State, slots: int, lines: Sequence[str], accounts: Accounts) -> Closing:
    store, batch = ending.store, ending.batch
    if not batch.order.compared_with:  # otherwise each record is read anyway
        ending.take_parts()
        ending.take_lines(lines)
    differences, compared_rows = Differences(batch), ending.folder / "comparison.parquet"
    with ComparisonTable(compared_rows) as compared_table:
        for compared in ending.take_others():
            compared_table.add(compared)
            differences.add(compared)
    shown = ending.read_shown()
    ending.end_table()
    usage = ending.events.write(store)
    costs = Costs.of(usage, accounts.prices)
    report = ending.report.html(ending.tally, state, shown, costs)
    store.put(layout.report(batch.name), report, _HTML)
    _sign(store, batch, report, usage, accounts)
    if batch.order.compared_with:
        store.put_file(layout.comparison_table(batch.name), compared_rows, _PARQUET)
        store.put(layout.comparison(batch.name), differences.html(store), _HTML)
    summary = ending.tally.summary(batch, state, slots)
    write(store, layout.summary(batch.name), summary)
    ending.parts.forget()
    return Closing(summary=summary)


def _sign(store: ObjectStore, batch: Batch, report: bytes, usage: UsageManifest, accounts: Accounts) -> None:
    """Sign report and usage; without a key, remove the signature of an earlier closing."""
    key = layout.report_signature(batch.name)
    if accounts.key is None:
        store.delete(key)
        return
    manifest = layout.usage_manifest(batch.name, batch.created)
    files = {layout.report(batch.name): report, manifest: usage.to_json()}
    write(store, key, signed(batch.name, batch.created, files, accounts.key))


class _GoneError(Exception):
    """A record was deleted after it had been listed."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


@dataclass
class _Ending:
    """A batch being closed: what was counted, and which images' rows are in which part."""

    store: ObjectStore
    batch: Batch
    marks: OutcomeMarks
    readers: int
    folder: Path
    taken: list[WrittenPart] = field(default_factory=list)
    tail: list[pa.Table] = field(default_factory=list)
    failed: list[pa.Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tally = Tally(self.batch.order.wait_objective)
        self.report = Report(self.batch)
        self.events = Events(self.batch, self.folder)
        self.parts = Parts(self.store, self.batch)
        self._has = np.zeros(self.batch.images, bool)
        self._failures: dict[int, FailureRecord] = {}

    def take_parts(self) -> None:
        """Count the parts that hold only existing results, none of them twice."""
        for part, counts in self.parts.found():
            indices = np.asarray(counts["index"])
            if self._fresh(indices).all() and len(np.unique(indices)) == len(indices):
                self._count(counts)
                self.taken.append(part)

    def take_lines(self, lines: Sequence[str]) -> None:
        """Count rows that workers sent."""
        for start in range(0, len(lines), _ROWS_AT_A_TIME):
            rows = _newest(_known(lines[start : start + _ROWS_AT_A_TIME]))
            indices = np.asarray(rows["index"], np.int64)
            fresh = self._fresh(indices)
            self._add(rows.filter(pa.array(fresh)))

    def take_others(self) -> Iterator[Compared]:
        """Read the records whose rows are missing, and count them; yields comparisons."""
        wanted = (index for index in self.marks.present() if not self._has[index])
        lines: list[str] = []
        for found in in_order(self._look, entries(self.store, self.batch, wanted), self.readers):
            lines.append(sent(found.outcome.row))
            self._keep(found.outcome)
            if len(lines) == _ROWS_AT_A_TIME:
                self._add(rows_of(lines))
                lines.clear()
            if found.compared is not None:
                yield found.compared
        self._add(rows_of(lines))

    def read_shown(self) -> dict[int, ResultRecord | FailureRecord]:
        """The records of the images that the report shows, by index."""
        unread = [index for index in self.report.wanted if index not in self._failures]
        found = in_order(self._read, entries(self.store, self.batch, unread), self.readers)
        return {**self._failures, **{outcome.entry.index: outcome.record for outcome in found}}

    def end_table(self) -> None:
        """Write what is not in a part yet, and make the table of everything."""
        if not self.parts.one_file:
            self._flush(self.tail, kept=True)
            self._flush(self.failed, kept=False)
        self.parts.end(self.taken, [*self.tail, *self.failed])

    def _keep(self, outcome: Outcome) -> None:
        """Keep the first failures that are read, for the report."""
        if isinstance(outcome.record, FailureRecord) and len(self._failures) < SHOWN:
            self._failures[outcome.entry.index] = outcome.record

    def _add(self, rows: pa.Table) -> None:
        if not len(rows):
            return
        self._count(rows)
        is_done = np.array([outcome == "done" for outcome in rows["outcome"].to_pylist()])
        for tables, mine, kept in ((self.tail, is_done, True), (self.failed, ~is_done, False)):
            if mine.any():
                tables.append(rows.filter(pa.array(mine)))
            if not self.parts.one_file and sum(map(len, tables)) >= table_parts.ROWS:
                self._flush(tables, kept=kept)

    def _flush(self, tables: list[pa.Table], *, kept: bool) -> None:
        if tables:
            self.taken.append(self.parts.write(pa.concat_tables(_alike(tables)), kept=kept))
            tables.clear()

    def _count(self, rows: pa.Table) -> None:
        self._has[np.asarray(rows["index"])] = True
        self.tally.add(rows)
        self.report.add(rows)
        self.events.add(rows)

    def _fresh(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of these images have a result, and no row yet."""
        fresh = self.marks.are_done(indices)
        fresh[fresh] = ~self._has[indices[fresh]]
        return fresh

    def _look(self, entry: ManifestEntry) -> _ImageOutcome:
        outcome = self._read(entry)
        return _ImageOutcome(outcome, compare(self.store, outcome) if self.batch.order.compared_with else None)

    def _read(self, entry: ManifestEntry) -> Outcome:
        try:
            return read_outcome(self.store, self.batch, entry, done=self.marks.is_done(entry.index))
        except ObjectNotFound as error:
            raise _GoneError(entry.index) from error


@dataclass(frozen=True)
class _ImageOutcome:
    outcome: Outcome
    compared: Compared | None


def _alike(tables: Sequence[pa.Table]) -> list[pa.Table]:
    labels = {label for table in tables for label in columns.labels_of(table)}
    return [columns.with_labels(table, labels) for table in tables]


def _known(lines: Sequence[str]) -> pa.Table:
    """Rows that workers sent; none if they are of another version, so that their records are read."""
    try:
        return rows_of(lines)
    except ValueError as error:
        _log.warning("rows passed over", rows=len(lines), message=str(error))
        return rows_of([])


def _newest(rows: pa.Table) -> pa.Table:
    """The last row of each image: if there are several, an earlier record was deleted."""
    backwards = np.asarray(rows["index"], np.int64)[::-1]
    last = np.unique(backwards, return_index=True)[1]
    return rows if len(last) == len(rows) else rows.take(pa.array(np.sort(len(rows) - 1 - last)))
