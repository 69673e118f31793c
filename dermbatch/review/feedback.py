"""What readers' decisions about a batch teach: for each image one lesson, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from dermbatch import layout
from dermbatch.errors import NewerFormat, ObjectNotFound, PermanentError
from dermbatch.records.outcome import ModelUsed, ResultRecord
from dermbatch.records.review import Decision, DrawnMask
from dermbatch.review.kept import latest, newer_results, of_batch
from dermbatch.review.queues import returned_to
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import read

Why = Literal[
    "deleted",
    "another_image",
    "resegmented",
    "returned",
    "unsure",
    "readers_disagree",
    "several_diagnoses",
    "nothing_decided",
    "another_size",
]
"""Why an image teaches nothing: it no longer has a result; its bytes have changed; its lesion was segmented again
since; its reader was asked to correct it; no reader is sure; readers differ; several diagnoses are possible; there
is neither diagnosis nor mask; the mask has another size."""


@dataclass(frozen=True)
class Lesson:
    """What an image teaches.

    Attributes:
        record: Its result.
        diagnosis: What all readers say, or what was adjudicated; none if nobody named one.
        mask: The last mask drawn of the lesion; none if none was.
        decisions: The decisions that it rests on.
        models: The models whose results the readers saw, by stage, if those results still exist.
    """

    record: ResultRecord
    diagnosis: str | None
    mask: DrawnMask | None
    decisions: tuple[Decision, ...]
    models: dict[Stage, ModelUsed]


@dataclass(frozen=True)
class NoLesson:
    """An image that was decided on and teaches nothing."""

    batch: str
    index: int
    readers: tuple[str, ...]
    why: Why


def lessons(store: ObjectStore, batch: str) -> Iterator[Lesson | NoLesson]:
    """For each image in a batch that somebody has decided on, in no particular order.

    Raises:
        StoreUnavailable, StoreRefused: If the store fails.
        RecordDamaged, NewerFormat: If a decision cannot be read.
    """
    for index, found in groupby(of_batch(store, batch), key=lambda one: one.index):
        decisions = list(found)
        lesson = _lesson(store, batch, index, decisions)
        readers = tuple(sorted({one.reader for one in decisions}))
        yield lesson if isinstance(lesson, Lesson) else NoLesson(batch, index, readers, lesson)


def _lesson(store: ObjectStore, batch: str, index: int, decisions: list[Decision]) -> Lesson | Why:
    try:
        record = read(store, layout.result(batch, index), ResultRecord)
    except (ObjectNotFound, PermanentError, NewerFormat):
        return "deleted"
    counted = _counted(decisions)
    if not counted:
        return "returned"
    if any(one.seen.sha256 != record.source.sha256 for one in counted):
        return "another_image"
    pool = layout.pool_of(record.preview)
    if any(_resegmented(store, one, pool) for one in counted):
        return "resegmented"
    sure = [one for one in counted if not one.unsure]
    masks = [one.mask for one in sorted(counted, key=lambda one: one.made) if one.mask is not None]
    diagnoses = {one.diagnosis for one in sure if one.diagnosis}
    if (why := _why_not(record, diagnoses, masks, sure)) is not None:
        return why
    (diagnosis,) = diagnoses.pop() if diagnoses else (None,)
    return Lesson(record, diagnosis, masks[-1] if masks else None, tuple(counted), _models(record, counted))


def _why_not(
    record: ResultRecord, diagnoses: set[tuple[str, ...]], masks: Sequence[DrawnMask], sure: Sequence[Decision]
) -> Why | None:
    if len(diagnoses) > 1:
        return "readers_disagree"
    if any(len(labels) > 1 for labels in diagnoses):
        return "several_diagnoses"
    if not diagnoses and not masks:
        return "nothing_decided" if sure else "unsure"
    if any((mask.height, mask.width) != (record.source.height, record.source.width) for mask in masks[-1:]):
        return "another_size"
    return None


def _counted(decisions: Sequence[Decision]) -> list[Decision]:
    """Those that count: the last adjudication, or else all readings that were not returned since.

    Each reader's last decision counts, but all returns do, as one person may return several readings.
    """
    last = latest(list(decisions)).values()
    if adjudged := [one for one in last if one.kind == "adjudicate"]:
        return [max(adjudged, key=lambda one: one.made)]
    return [one for one in last if one.kind == "read" and returned_to(one.reader, decisions) is None]


def _resegmented(store: ObjectStore, decision: Decision, pool: str | None) -> bool:
    """Whether the lesion was segmented again since, in its pool's results, without the reader being told."""
    newer = newer_results(store, decision.seen.sha256, decision.seen.stages, pool)
    return Stage.SEGMENT in newer and decision.despite.get(Stage.SEGMENT) != newer[Stage.SEGMENT]


def _models(record: ResultRecord, decisions: Sequence[Decision]) -> dict[Stage, ModelUsed]:
    shown = {(stage, key) for one in decisions for stage, key in one.seen.stages.items()}
    return {stage: one.model for stage, one in record.stages.items() if (stage, one.key) in shown}
