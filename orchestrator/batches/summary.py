"""The summary of a batch, counted up record by record."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from dermbatch import __version__, layout
from dermbatch.errors import ObjectNotFound, RecordDamaged
from dermbatch.records import Batch, BatchSummary, ResultRecord
from dermbatch.records.stored import read
from dermbatch.stages import ORDER, Stage
from dermbatch.store import ObjectStore
from orchestrator.batches.outcomes import Outcome

_BINS_A_DOUBLING = 8
_LEAST_SECONDS = 1e-4


def read_summary(store: ObjectStore, batch: str) -> BatchSummary | None:
    """The summary of a closed batch; none where it is not closed (or the summary is damaged)."""
    try:
        return read(store, layout.summary(batch), BatchSummary)
    except (ObjectNotFound, RecordDamaged):
        return None


class Spread:
    """Durations, counted in bins that grow by 9 %: mean exactly, quantiles to that width, in constant memory."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self._bins = Counter[int]()

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.count += 1
        self.total += seconds
        self._bins[round(_BINS_A_DOUBLING * math.log2(max(seconds, _LEAST_SECONDS)))] += 1

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
    """Counts outcomes one by one, in memory that does not grow with them."""

    def __init__(self) -> None:
        self.done = 0
        self.failed = 0
        self.reasons = Counter[str]()
        self.without_dicom = 0
        self.stages: dict[Stage, Spread] = {stage: Spread() for stage in ORDER}
        self.images = Spread()
        self.first_started: datetime | None = None
        self.last_finished: datetime | None = None

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        if isinstance(outcome.record, ResultRecord):
            self._add_result(outcome.record)
        else:
            self.failed += 1
            self.reasons[outcome.record.reason] += 1

    def _add_result(self, record: ResultRecord) -> None:
        self.done += 1
        self.without_dicom += record.no_dicom is not None
        self.first_started = min(filter(None, (self.first_started, record.started)))
        self.last_finished = max(filter(None, (self.last_finished, record.finished)))
        run = [stage for stage in record.stages if stage not in record.cached]
        for stage in run:
            self.stages[stage].add(record.seconds.get(stage, 0.0))
        if run:
            self.images.add(max(0.0, (record.finished - record.started).total_seconds()))

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
            software=__version__,
        )


def tallied(outcomes: Iterable[Outcome]) -> Tally:
    """The tally of all these."""
    tally = Tally()
    for outcome in outcomes:
        tally.add(outcome)
    return tally
