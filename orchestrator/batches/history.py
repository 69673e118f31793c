"""History: how long images took in the batches that closed lately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dermbatch import layout
from dermbatch.records.asked import BatchSummary
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import read_if_any
from orchestrator.batches.outcomes import in_order

NEWEST = 5
"""Number of batches that the times are averaged over."""

_AT_A_TIME = 16


@dataclass(frozen=True)
class History:
    """Times measured in closed batches that ran stages.

    Attributes:
        batches: How many.
        slots: Worker slots, mean.
        stage_seconds: Mean seconds of a stage, of those that were run.
        other_seconds: Mean seconds of a worker slot an image besides its stages: reading, decoding, writing.
    """

    batches: int
    slots: float
    stage_seconds: dict[Stage, float]
    other_seconds: float

    @classmethod
    def of(cls, summaries: Sequence[BatchSummary]) -> History | None:
        """The means over batches, weighted by what each ran; none if none ran anything."""
        images = sum(map(_ran, summaries))
        if not images:
            return None
        runs, seconds = dict.fromkeys(Stage, 0), dict.fromkeys(Stage, 0.0)
        for summary in summaries:
            for stage, count in summary.stage_runs.items():
                runs[stage] += count
                seconds[stage] += count * summary.stage_seconds.get(stage, 0)
        in_images = sum(summary.image_seconds * _ran(summary) for summary in summaries)
        return cls(
            batches=len(summaries),
            slots=sum(max(1, summary.slots) * _ran(summary) for summary in summaries) / images,
            stage_seconds={stage: seconds[stage] / runs[stage] for stage in Stage if runs[stage]},
            other_seconds=max(0.0, in_images - sum(seconds.values())) / images,
        )


def _ran(summary: BatchSummary) -> int:
    """How many images of a batch had stages run."""
    return max(summary.stage_runs.values(), default=0)


def read_history(store: ObjectStore, newest: int = NEWEST) -> History | None:
    """The history told by the store's closed batches; none if no closed batch ran a stage.

    One request for each batch there is, then one for each of the newest.
    """
    names = store.folders(store.bucket, layout.BATCHES)

    def closed(name: str) -> tuple[float, str]:
        infos = list(store.list(store.bucket, layout.summary(name)))
        when = infos[0].modified if infos else None
        return (when.timestamp() if when else 0, name)

    found = [one for one in in_order(closed, names, _AT_A_TIME) if one[0]]
    taken: list[BatchSummary] = []
    for _, name in sorted(found, reverse=True):
        summary = read_if_any(store, layout.summary(name), BatchSummary)
        if summary is not None and _ran(summary):
            taken.append(summary)
        if len(taken) == newest:
            break
    return History.of(taken)
