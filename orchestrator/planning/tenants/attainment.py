"""How far the promises to a tenant were kept, from summaries of its batches that closed in a month."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from dermbatch.records.asked import BatchSummary
from dermbatch.store import ObjectStore
from orchestrator.batches.outcomes import in_order
from orchestrator.batches.summary import read_summary
from orchestrator.planning.tenants.quota import batches_of

WITHIN = 0.95
"""Share of live images that the waiting objective covers."""

_AT_A_TIME = 16


@dataclass(frozen=True)
class Attained:
    """How far objectives were met.

    Attributes:
        live: Live results with a promised waiting time.
        late: Of these, how many waited longer.
        deadlines: Batches with a deadline that closed.
        met: Of these, how many met it.
    """

    live: int = 0
    late: int = 0
    deadlines: int = 0
    met: int = 0

    @property
    def in_time(self) -> float | None:
        """Share of live results that waited no longer than promised; none without any."""
        return 1 - self.late / self.live if self.live else None

    @property
    def deadlines_met(self) -> float | None:
        """Share of deadlines that were met; none without any."""
        return self.met / self.deadlines if self.deadlines else None

    def and_of(self, summary: BatchSummary) -> Attained:
        """The figures with one more batch added."""
        return Attained(
            live=self.live + (summary.done if summary.late is not None else 0),
            late=self.late + (summary.late or 0),
            deadlines=self.deadlines + (summary.met is not None),
            met=self.met + (summary.met is True),
        )


def attained(store: ObjectStore, tenant: str, now: datetime) -> Attained:
    """The figures of a tenant's batches that closed in this month, UTC.

    Raises:
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    month, found = f"{now.astimezone(UTC):%Y-%m}", Attained()
    names = (batch.name for batch in batches_of(store, tenant))
    for summary in in_order(lambda name: read_summary(store, name), names, _AT_A_TIME):
        if summary is not None and f"{summary.closed.astimezone(UTC):%Y-%m}" == month:
            found = found.and_of(summary)
    return found
