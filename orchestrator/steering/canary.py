"""Canaries: new models that a share of live images is also run with, beside the old ones, and how far they agree.

One runs at a time. Its record lies under its name for ever, and a copy under one fixed key while it runs, so the
dispatcher asks for one object. Results are never touched; workers write what they saw under the canary's name.
"""

from __future__ import annotations

import hashlib
import heapq
import statistics
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise

import structlog

from dermbatch import layout
from dermbatch.errors import NewerFormat, ObjectNotFound, RecordDamaged, UsageError
from dermbatch.records.asked import Canary, ImageJob, ModelChoice, Record, Shadow
from dermbatch.records.outcome import CanaryRecord
from dermbatch.stages import Stage, closure
from dermbatch.store import ObjectStore
from dermbatch.stored import read, write, write_once
from orchestrator.batches.outcomes import in_order

EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0)
"""Bounds of the histogram's bins; a bin holds its lower bound, the last one its upper bound too."""

_log = structlog.get_logger(__name__)

_AT_A_TIME = 8
_WORST = 10


class Bin(Record):
    """A bin of the histogram of Dice."""

    lower: float
    upper: float
    images: int


class CanaryReport(Record):
    """How a canary's models agree with the results so far."""

    canary: Canary
    images: int
    failures: dict[str, int]
    mean_dice: float | None
    median_dice: float | None
    histogram: tuple[Bin, ...]
    diagnosed: int
    same_label: int
    changed_labels: dict[str, int]
    mean_seconds: float | None
    worst: tuple[CanaryRecord, ...]

    @property
    def label_agreement(self) -> float | None:
        """Share of the images that both diagnosed whose most probable class is the same, 0 to 1."""
        return self.same_label / self.diagnosed if self.diagnosed else None


def start(store: ObjectStore, name: str, models: Mapping[Stage, ModelChoice], share: float) -> Canary:
    """Start a canary.

    Args:
        store: Where it is recorded.
        name: A new name; its results are kept under it.
        models: Models of the stages that differ.
        share: Of live images, more than 0 and at most 1.

    Raises:
        UsageError: If name or share is invalid, nothing differs, the name was used before, or another canary is
            running.
    """
    layout.check_batch_name(name, "canary")
    if not models:
        raise UsageError("a canary needs a model to try: name at least one, as in --model segment=NAME@VERSION")
    if not 0 < share <= 1:
        raise UsageError(f"a canary's share of live images must be more than 0 and at most 1, not {share:g}")
    if _read(store, layout.canary(name)) is not None:
        raise UsageError(f"there was a canary {name} already; choose another name, so that results do not mix")
    canary = Canary(name=name, models=dict(models), share=share, created=datetime.now(UTC))
    if not write_once(store, layout.RUNNING_CANARY, canary):
        other = running(store)
        raise UsageError(
            f"canary {other.name if other else 'of another release'} is already running; stop it first"
        )
    write(store, layout.canary(name), canary)
    return canary


def stop(store: ObjectStore, name: str) -> Canary:
    """Stop a canary; harmless if it has been stopped. Images in flight may still add to its results.

    Raises:
        UsageError: If there is none of this name.
    """
    pointer = running(store)
    others = pointer is not None and pointer.name != name
    canary = _read(store, layout.canary(name)) or (None if others else pointer)
    if canary is None:
        raise UsageError(f"there is no canary {name}")
    if canary.stopped is None:
        canary = canary.model_copy(update={"stopped": datetime.now(UTC)})
        write(store, layout.canary(name), canary)
    if not others:
        store.delete(layout.RUNNING_CANARY)
    return canary


def running(store: ObjectStore) -> Canary | None:
    """The running canary, by one request. An unreadable record counts as none: live images must not wait."""
    try:
        return _read(store, layout.RUNNING_CANARY)
    except NewerFormat:
        return None


def choose(canary: Canary, job: ImageJob) -> ImageJob:
    """The job, with the canary's models as its shadow if the image falls into the share.

    An image always falls in or always out, in whatever batch it comes, so a canary's share is a sample of images.
    """
    asked = job.order
    stages = closure(frozenset(asked.stages))
    models = {stage: canary.models.get(stage, asked.models[stage]) for stage in stages if stage in asked.models}
    if all(models[stage] == asked.models[stage] for stage in models) or _lot(canary.name, job) >= canary.share:
        return job
    return job.model_copy(update={"shadow": Shadow(canary=canary.name, models=models)})


def report(store: ObjectStore, name: str) -> CanaryReport:
    """What a canary has shown so far, read in one pass; of each image, only its Dice stays in memory.

    Raises:
        UsageError: If there is no canary of this name.
    """
    canary = _read(store, layout.canary(name))
    if canary is None:
        raise UsageError(f"there is no canary {name}")
    images, seconds = 0, 0.0
    failures, changed, labels = Counter[str](), Counter[str](), Counter[bool]()
    dices = array("d")
    worst: list[tuple[float, float, int, CanaryRecord]] = []
    for record in read_records(store, name):
        images += 1
        if record.failure is not None:
            failures[record.failure] += 1
            continue
        seconds += record.seconds
        if record.old_label is not None and record.new_label is not None:
            labels[record.old_label == record.new_label] += 1
            if record.old_label != record.new_label:
                changed[f"{record.old_label} -> {record.new_label}"] += 1
        if record.dice is not None:
            dices.append(record.dice)
        # The heap's least is the image that agrees best of the worst; numbers decide where all else is equal.
        rank = (-_or(record.dice, 1.0), _or(record.probability_change, 0.0), -images, record)
        (heapq.heappush if len(worst) < _WORST else heapq.heappushpop)(worst, rank)
    compared = images - failures.total()
    return CanaryReport(
        canary=canary,
        images=images,
        failures=dict(failures.most_common()),
        mean_dice=statistics.fmean(dices) if dices else None,
        median_dice=statistics.median(dices) if dices else None,
        histogram=_histogram(dices),
        diagnosed=labels.total(),
        same_label=labels[True],
        changed_labels=dict(changed.most_common()),
        mean_seconds=seconds / compared if compared else None,
        worst=tuple(rank[-1] for rank in sorted(worst, reverse=True) if _differs(rank[-1])),
    )


def read_records(store: ObjectStore, name: str) -> Iterator[CanaryRecord]:
    """What workers saw, image by image, a few in memory at a time."""
    keys = (info.key for info in store.list(store.bucket, layout.canary_results(name)))
    return in_order(lambda key: read(store, key, CanaryRecord), keys, _AT_A_TIME)


def _read(store: ObjectStore, key: str) -> Canary | None:
    try:
        return read(store, key, Canary)
    except ObjectNotFound:
        return None
    except RecordDamaged:
        _log.warning("a canary's record is unreadable: delete it", key=key)
        return None


def _lot(name: str, job: ImageJob) -> float:
    """A number from 0 to below 1, always the same for the same canary and content."""
    digest = hashlib.sha256(f"{name}:{job.etag or job.source}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _histogram(dices: array[float]) -> tuple[Bin, ...]:
    counts = Counter(sum(edge <= dice for edge in EDGES[1:-1]) for dice in dices)
    return tuple(
        Bin(lower=lower, upper=upper, images=counts[n]) for n, (lower, upper) in enumerate(pairwise(EDGES))
    )


def _differs(record: CanaryRecord) -> bool:
    return _or(record.dice, 1.0) < 1 or _or(record.probability_change, 0.0) > 0


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
