"""The summary of a batch, added up table by table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dermbatch import __version__, layout
from dermbatch.errors import ObjectNotFound, RecordDamaged
from dermbatch.records.asked import Batch, BatchSummary
from dermbatch.records.row import NO_DICOM
from dermbatch.stages import ORDER, Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import read

_BINS_A_DOUBLING = 8
_LEAST_SECONDS = 1e-4


def read_summary(store: ObjectStore, batch: str) -> BatchSummary | None:
    """The summary of a closed batch; none if it is not closed (or the summary is damaged)."""
    try:
        return read(store, layout.summary(batch), BatchSummary)
    except (ObjectNotFound, RecordDamaged):
        return None


class Spread:
    """Durations, counted in bins that grow by 9 %: an exact mean, quantiles to that width, constant memory."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self._bins = Counter[int]()

    def add(self, seconds: Iterable[float]) -> None:
        """Count durations."""
        given = np.fromiter(seconds, float)
        self.count += len(given)
        self.total += float(given.sum())
        bins = np.rint(_BINS_A_DOUBLING * np.log2(np.maximum(given, _LEAST_SECONDS))).astype(int)
        self._bins.update(bins.tolist())

    @property
    def mean(self) -> float:
        """Mean in seconds; 0 where nothing was counted."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """Seconds that this share of the durations does not exceed; 0 where nothing was counted."""
        passed = 0
        for number in sorted(self._bins):
            passed += self._bins[number]
            if passed >= share * self.count:
                return float(2 ** (number / _BINS_A_DOUBLING))
        return 0.0


class Tally:
    """Counts outcomes, a table of rows at a time, in memory that does not grow with them.

    Args:
        wait_objective: Seconds beyond which an image has waited too long; none if nothing is promised.
    """

    def __init__(self, wait_objective: float | None = None) -> None:
        self._objective = wait_objective
        self.done = 0
        self.failed = 0
        self.reasons = Counter[str]()
        self.without_dicom = 0
        self.stages: dict[Stage, Spread] = {stage: Spread() for stage in ORDER}
        self.images = Spread()
        self.waits = Spread()
        self.late = 0
        self.first_started: datetime | None = None
        self.last_finished: datetime | None = None

    def add(self, rows: pa.Table) -> None:
        """Count the outcomes of these rows."""
        done = rows.filter(pc.equal(rows["outcome"], "done"))
        self.done += len(done)
        self.failed += len(rows) - len(done)
        self.reasons.update(reason for reason in rows["reason"].to_pylist() if reason is not None)
        if len(done):
            self._add_results(done)

    def _add_results(self, rows: pa.Table) -> None:
        self.without_dicom += pc.sum(rows[NO_DICOM]).as_py() or 0
        self.first_started = min(filter(None, (self.first_started, pc.min(rows["started"]).as_py())))
        self.last_finished = max(filter(None, (self.last_finished, pc.max(rows["finished"]).as_py())))
        ran = np.zeros(len(rows), bool)
        for stage in ORDER:
            run = pc.equal(rows[f"{stage}_cached"], False).fill_null(False)
            self.stages[stage].add(rows[f"{stage}_seconds"].filter(run).fill_null(0.0).to_pylist())
            ran |= np.asarray(run)
        waited = np.asarray(rows["seconds_waited"].drop_null(), float)
        self.waits.add(waited)
        self.late += int((waited > (np.inf if self._objective is None else self._objective)).sum())
        took = pc.subtract(rows["finished"], rows["started"]).cast(pa.int64())
        self.images.add(np.maximum(0, np.asarray(took)[ran]) / 1_000_000)

    def summary(self, batch: Batch, state: Literal["finished", "cancelled"], slots: int) -> BatchSummary:
        """What was counted, as the batch's summary."""
        ran = [stage for stage in ORDER if self.stages[stage].count]
        return BatchSummary(
            name=batch.name,
            state=state,
            images=batch.images,
            done=self.done,
            failed=self.failed,
            reasons=dict(self.reasons.most_common()),
            without_dicom=self.without_dicom,
            created=batch.created,
            closed=datetime.now(UTC),
            first_started=self.first_started,
            last_finished=self.last_finished,
            stage_seconds={stage: self.stages[stage].mean for stage in ran},
            stage_runs={stage: self.stages[stage].count for stage in ran},
            image_seconds=self.images.mean,
            slots=slots,
            deadline=batch.order.deadline,
            waited_p95=round(self.waits.quantile(0.95), 3) if self.waits.count else None,
            late=None if self._objective is None else self.late,
            software=__version__,
        )
