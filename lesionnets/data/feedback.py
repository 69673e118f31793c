"""Readers' decisions as a training set in the usual layout (docs/data.md), with the origin of each image."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dermbatch.errors import ArtifactDamaged, SourceGone, UsageError
from dermbatch.images import png
from dermbatch.images.lesion import Mask
from dermbatch.pictures import read_source
from dermbatch.review.feedback import Lesson, NoLesson, lessons
from dermbatch.review.masks import of_runs
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from lesionnets.data.sources.isic import DIAGNOSES, MASK_END

_LABELS = ("image_id", "split", "diagnosis", "has_mask")
_KEPT = (*_LABELS, "batch", "index", "sha256", "readers", "made", "kind", "shown", "segmented_by", "classified_by")
_LEFT_OUT = ("batch", "index", "readers", "why")
_DIGITS = 8

Row = Mapping[str, object]


@dataclass(frozen=True)
class WrittenLessons:
    """What was written: images by split, numbers of each diagnosis and of masks, and those left out by reason."""

    images: dict[str, int]
    diagnoses: dict[str, int]
    masks: int
    left_out: dict[str, int]


@dataclass(frozen=True)
class _Teaching:
    """What is taken from a lesson: a mask, a diagnosis or both."""

    diagnosis: str
    mask: Mask | None


def write_set(
    store: ObjectStore, batches: Sequence[str], out: Path, *, renamed: Mapping[str, str], val: float
) -> WrittenLessons:
    """Write what readers decided as a training set.

    ``<split>/images/<batch>_<index>.png``, ``<split>/masks/<batch>_<index>_segmentation.png`` and ``labels.csv``,
    of images with a diagnosis; ``feedback.csv`` says for each image who decided, when, and what models had made of
    it; ``left_out.csv`` says what is missing and why. The image's digest alone decides whether it is in ``val``,
    so it stays there as decisions are added.

    Args:
        store: The store with decisions and images.
        batches: Whose decisions.
        out: Folder to create; it must not hold a set yet.
        renamed: New names of diagnoses; those renamed to nothing are dropped.
        val: Share of the images that is held out, 0 to 1.

    Raises:
        UsageError: If the folder holds a set already, or no decision teaches anything.
        StoreUnavailable, StoreRefused: If the store fails.
    """
    if (out / "feedback.csv").exists():
        raise UsageError(f"{out} holds a set already; name another folder, or delete it")
    rows: list[Row] = []
    left_out: list[Row] = []
    for lesson in (lesson for batch in dict.fromkeys(batches) for lesson in lessons(store, batch)):
        taken = _write(store, lesson, out, renamed, val)
        (left_out if isinstance(taken, str) else rows).append(
            _left_out(lesson, taken) if isinstance(taken, str) else taken
        )
    counted = dict(Counter(str(row["why"]) for row in left_out))
    if not rows:
        told = ", ".join(f"{count} {word}" for word, count in sorted(counted.items())) or "there are none"
        raise UsageError(f"no decision of {', '.join(batches)} teaches anything: {told}")
    diagnosed = [row for row in rows if row["diagnosis"]]
    _csv(out / "labels.csv", _LABELS, diagnosed)
    _csv(out / "left_out.csv", _LEFT_OUT, left_out)
    _csv(out / "feedback.csv", _KEPT, rows)  # last: once it exists, the set is complete
    return WrittenLessons(
        images=dict(Counter(str(row["split"]) for row in rows)),
        diagnoses=dict(Counter(str(row["diagnosis"]) for row in diagnosed)),
        masks=sum(row["has_mask"] == 1 for row in rows),
        left_out=counted,
    )


def _write(
    store: ObjectStore, lesson: Lesson | NoLesson, out: Path, renamed: Mapping[str, str], val: float
) -> Row | str:
    """Write an image and what it teaches; returns its row, or the reason why it is left out."""
    if isinstance(lesson, NoLesson):
        return lesson.why
    teaching = _teaching(lesson, renamed)
    if isinstance(teaching, str):
        return teaching
    source = lesson.record.source
    try:
        picture = read_source(store, source)
    except (SourceGone, ArtifactDamaged):
        return "source_gone"
    split = "val" if int(source.sha256[:_DIGITS], 16) < val * 16**_DIGITS else "train"
    image_id = f"{lesson.record.batch}_{lesson.record.index}"
    _picture(out / split / "images" / f"{image_id}.png", png.encode(picture))
    if teaching.mask is not None:
        _picture(out / split / "masks" / f"{image_id}{MASK_END}", png.encode(teaching.mask))
    row = {"image_id": image_id, "split": split, "diagnosis": teaching.diagnosis}
    return row | {"has_mask": int(teaching.mask is not None)} | _said(lesson)


def _teaching(lesson: Lesson, renamed: Mapping[str, str]) -> _Teaching | str:
    label = lesson.diagnosis
    diagnosis = "" if label is None else renamed.get(label, label)
    drawn = lesson.mask
    mask = None if drawn is None else of_runs(drawn.counts, drawn.height, drawn.width)
    if diagnosis and diagnosis not in DIAGNOSES:
        return "unknown_diagnosis"
    if mask is not None and not mask.any():
        return "no_lesion"
    if not diagnosis and mask is None:
        return "unknown_diagnosis"
    return _Teaching(diagnosis, mask)


def _said(lesson: Lesson) -> dict[str, object]:
    """Where an image's labels are from: who decided, when, and having seen what."""
    decisions, record = sorted(lesson.decisions, key=lambda one: one.made), lesson.record
    models = {stage: f"{one.name}@{one.version} {one.sha256[:12]}" for stage, one in lesson.models.items()}
    return {
        "batch": record.batch,
        "index": record.index,
        "sha256": record.source.sha256,
        "readers": ";".join(one.reader for one in decisions),
        "made": decisions[-1].made.isoformat(),
        "kind": decisions[-1].kind,
        "shown": int(any(one.seen.shown for one in decisions)),
        "segmented_by": models.get(Stage.SEGMENT, ""),
        "classified_by": models.get(Stage.CLASSIFY, ""),
    }


def _left_out(lesson: Lesson | NoLesson, why: str) -> Row:
    if isinstance(lesson, NoLesson):
        return {"batch": lesson.batch, "index": lesson.index, "readers": ";".join(lesson.readers), "why": why}
    readers = ";".join(sorted(one.reader for one in lesson.decisions))
    return {"batch": lesson.record.batch, "index": lesson.record.index, "readers": readers, "why": why}


def _picture(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


def _csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
