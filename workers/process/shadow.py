"""A canary's side run: other models on an image whose result is written, and how far they agree with it.

It is never part of the result: it comes after the commit, and anything that goes wrong here becomes a record, a
metric or a log line. Artifacts lie under separate keys, and stages that are the same in both runs are not run
again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from dermbatch import layout, metrics
from dermbatch.errors import DermbatchError
from dermbatch.images import png
from dermbatch.images.imagefile import Decode, read_image
from dermbatch.images.lesion import dice
from dermbatch.records.asked import ImageJob, Shadow
from dermbatch.records.measures import classification, probability_change
from dermbatch.records.outcome import CanaryRecord, ResultRecord
from dermbatch.settings import WorkerSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import write
from workers.image import artifacts
from workers.image.pictures import MASK
from workers.inference.protocol import Inference
from workers.process.journey import process

AGREE = 0.9
"""Dice from which two masks count as the same lesion in ``dermbatch_canary_images``."""

_log = structlog.get_logger(__name__)


class _Stopped(Exception):
    """The worker is to stop."""


def run_shadow(
    job: ImageJob,
    record: ResultRecord,
    *,
    store: ObjectStore,
    client: Inference,
    limits: WorkerSettings,
    alive: Callable[[], None],
    decode: Decode = read_image,
) -> None:
    """Run the models of ``job.shadow`` on the image, and record how far they agree with its result.

    Does nothing if the job has no shadow. Raises nothing, and is never repeated: a canary is a sample.

    Args:
        job: What was done.
        record: What came out of it, as it was committed.
        store: The object store.
        client: What runs the models.
        limits: Largest file and picture.
        alive: Called between steps; raises where the worker is to stop, which ends the side run without a record.
        decode: Decodes the source.
    """
    if job.shadow is None:
        return
    log = _log.bind(canary=job.shadow.canary, batch=job.batch, index=job.index)

    def going_on() -> None:
        try:
            alive()
        except Exception as error:
            raise _Stopped from error

    def run(other: ImageJob) -> ResultRecord:
        return process(
            other,
            store=store,
            client=client,
            limits=limits,
            attempt=record.attempt,
            worker=record.worker,
            alive=going_on,
            decode=decode,
        )

    try:
        comparison = _tried(job, job.shadow, record, store, run)
        if comparison.failure is None and comparison.models == {
            stage: done.model for stage, done in record.stages.items()
        }:
            return  # the job named no version, and the newest is the canary's: it would be compared with itself
        write(store, layout.canary_result(comparison.canary, comparison.batch, comparison.index), comparison)
    except _Stopped:
        log.info("a canary's side run was interrupted")
    except DermbatchError as error:
        log.warning("what a canary showed could not be written", reason=error.reason)
    except Exception:
        log.exception("a canary's side run failed")
    else:
        _count(comparison)


def _tried(
    job: ImageJob,
    shadow: Shadow,
    record: ResultRecord,
    store: ObjectStore,
    run: Callable[[ImageJob], ResultRecord],
) -> CanaryRecord:
    """How the shadow's models agree; a failure of theirs is an outcome too."""
    start = time.perf_counter()
    comparison = CanaryRecord(
        canary=shadow.canary, batch=job.batch, index=job.index, name=job.name, models={}, seconds=0
    )
    try:
        alone = {"models": shadow.models, "dicom": False, "send_to": None, "output": None}
        new = run(job.model_copy(update={"order": job.order.model_copy(update=alone), "shadow": None}))
        seconds = _since(start)
        agreement = mask_agreement(store, record, new)
    except _Stopped:
        raise
    except Exception as error:
        reason = error.reason if isinstance(error, DermbatchError) else "internal_error"
        _log.warning("a canary's models failed", reason=reason, error=type(error).__name__)
        return comparison.model_copy(update={"failure": reason, "seconds": _since(start)})
    old_classes, new_classes = classification(record), classification(new)
    return comparison.model_copy(
        update={
            "models": {stage: done.model for stage, done in new.stages.items()},
            "dice": agreement,
            "old_label": old_classes.label if old_classes else None,
            "new_label": new_classes.label if new_classes else None,
            "probability_change": probability_change(old_classes, new_classes),
            "seconds": seconds,
        }
    )


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 6)


def mask_agreement(store: ObjectStore, old: ResultRecord, new: ResultRecord) -> float | None:
    """Dice of the two results' masks, 0 to 1; none where one of them has no mask.

    The comparison of two batches (``orchestrator/reporting/comparison.py``) reads masks in its own way: there a
    mask that was deleted since is no error, and only two are decoded at a time. Here both were just written.

    Raises:
        ObjectNotFound: If a mask was deleted.
    """
    ours, theirs = old.stages.get(Stage.SEGMENT), new.stages.get(Stage.SEGMENT)
    if ours is None or theirs is None:
        return None
    if ours.key == theirs.key:
        return 1.0
    return dice(*(png.decode(artifacts.load(store, record, MASK)) for record in (ours, theirs)))


def _count(comparison: CanaryRecord) -> None:
    if comparison.failure is not None:
        outcome = "failed"
    elif (comparison.dice is None or comparison.dice >= AGREE) and comparison.old_label == comparison.new_label:
        outcome = "agree"
    else:
        outcome = "differ"
    metrics.CANARY_IMAGES.labels(outcome).inc()
    if comparison.dice is not None:
        metrics.CANARY_DICE.observe(comparison.dice)
