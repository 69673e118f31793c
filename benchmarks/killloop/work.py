"""The work of the loop's images: next to nothing, but with an artifact and a record that can be judged.

The artifact's bytes follow from the image's number alone and its stage key is their digest, so a torn or foreign
artifact shows. Each run makes a record of its own (times, worker), so two runs of an image show too.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache

from dermbatch import __version__, layout
from dermbatch.errors import ObjectNotFound
from dermbatch.images.imagefile import Decode, read_image
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import encode
from dermbatch.records.asked import Batch, BatchControl, ImageJob, Lane, ManifestEntry, ModelChoice, Order
from dermbatch.records.outcome import ModelUsed, PurifyOutput, ResultRecord, SourceInfo, StageRecord, Usage
from dermbatch.settings import DEFAULT_MODELS
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore

BATCH = "loop"
SLEEP = (0.005, 0.05)
"""Seconds that a no-op stage takes, at least and at most."""

_MODEL = ModelChoice(name="nothing", version="1")
_SIZE = 2000
_SIDE = 256


def content(index: int) -> bytes:
    """The artifact of an image."""
    seed = hashlib.sha256(str(index).encode()).digest()
    return seed * (_SIZE // len(seed))


@lru_cache(maxsize=1)
def _source_file() -> bytes:
    return encode(phantom(1, height=_SIDE, width=_SIDE), ".jpg", identity=1)


def artifact_key(index: int, pool: str | None = None) -> tuple[str, str]:
    """Stage key and object key of an image's artifact, among those of a tenant."""
    digest = hashlib.sha256(content(index)).hexdigest()
    stage_key = digest[:32]
    return stage_key, layout.artifact(digest, Stage.PURIFY, stage_key, "purified.png", pool)


def job(batch: str, index: int) -> ImageJob:
    """The job of an image."""
    return ImageJob(
        batch=batch,
        index=index,
        name=f"image-{index}",
        source=_source(index),
        order=Order(stages=(Stage.PURIFY,), models={Stage.PURIFY: _MODEL}),
    )


def process(
    job: ImageJob,
    *,
    store: ObjectStore,
    attempt: int,
    worker: str,
    decode: Decode = read_image,
    alive: Callable[[], None] = lambda: None,
    **_: object,
) -> ResultRecord:
    """Stands in for the pipeline: read a picture, sleep, write the artifact, make the record."""
    started = datetime.now(UTC)
    decode(_source_file(), max_pixels=_SIDE**2)
    seconds = random.uniform(*SLEEP)
    time.sleep(seconds)
    alive()
    stage_key, key = artifact_key(job.index, job.order.pool)
    store.put(key, content(job.index), "image/png")
    alive()
    return record(job, stage_key, key, attempt=attempt, worker=worker, started=started, seconds=seconds)


def record(
    job: ImageJob, stage_key: str, key: str, *, attempt: int, worker: str, started: datetime, seconds: float
) -> ResultRecord:
    """A result record as a pipeline makes it."""
    stage = StageRecord(
        stage=Stage.PURIFY,
        key=stage_key,
        model=ModelUsed(name=_MODEL.name, version="1", sha256="0" * 64),
        parameters={},
        fed_by={},
        artifacts={"purified.png": key},
        seconds=round(seconds, 6),
        billed_by=job.event,
        output=PurifyOutput(occluded_fraction=0),
    )
    source = SourceInfo(
        uri=job.source, sha256=key.split("/")[-4], bytes=_SIZE, media_type="image/png", height=1, width=1
    )
    return ResultRecord(
        batch=job.batch,
        index=job.index,
        name=job.name,
        source=source,
        stages={Stage.PURIFY: stage},
        attempt=attempt,
        worker=worker,
        started=started,
        finished=datetime.now(UTC),
        seconds={"purify": seconds},
        usage=Usage(event=job.event, bytes_read=_SIZE),
        software=__version__,
    )


def entries(images: int) -> Iterator[ManifestEntry]:
    """The manifest's lines: many names for few objects, which the no-op stage does not read."""
    for index in range(images):
        yield ManifestEntry(index=index, name=f"image-{index}", source=_source(index), size=_SIZE)


def submit(store: ObjectStore, batch: Batch, lines: Iterator[ManifestEntry]) -> None:
    """Write a batch as the planner does: its control, the manifest, the batch's record last.

    The ledger is not told: that an orchestrator finds the batch in the store is part of what is tried.
    """
    control = BatchControl.of(batch.order)
    store.put(layout.control(batch.name), control.to_json(), "application/json")
    part: list[bytes] = []
    for entry in lines:
        part.append(entry.to_json() + b"\n")
        if len(part) == layout.PART_SIZE or entry.index == batch.images - 1:
            name, _ = layout.part_of(entry.index)
            store.put(layout.manifest_part(batch.name, name), b"".join(part), "application/x-ndjson")
            part = []
    store.put(layout.batch_record(batch.name), batch.to_json(), "application/json")


def submit_phantoms(
    store: ObjectStore, name: str, images: int, *, height: int, width: int, tenant: str = "default"
) -> Batch:
    """A batch of phantoms for the real stages, each another one; the same ones whoever asks."""
    entries = []
    for index in range(images):
        data = encode(phantom(index, height=height, width=width), ".jpg", identity=index)
        key = f"{name}/{index}"
        etag = store.put(key, data, "application/octet-stream", bucket=store.incoming_bucket)
        source = f"s3://{store.incoming_bucket}/{key}"
        entries.append(ManifestEntry(index=index, name=f"{index}.jpg", source=source, size=len(data), etag=etag))
    batch = no_op_batch(name, images).model_copy(update={"order": Order(models=DEFAULT_MODELS, tenant=tenant)})
    submit(store, batch, iter(entries))
    return batch


def no_op_batch(name: str, images: int, lane: Lane = "bulk", tenant: str = "default") -> Batch:
    """What is asked for images of this module."""
    return Batch(
        name=name,
        created=datetime.now(UTC),
        order=Order(lane=lane, stages=(Stage.PURIFY,), models={Stage.PURIFY: _MODEL}, tenant=tenant),
        images=images,
        software=__version__,
    )


def closed(store: ObjectStore, batch: str) -> bool:
    """Whether the batch is closed."""
    with suppress(ObjectNotFound):
        store.get(store.bucket, layout.summary(batch))
        return True
    return False


def _source(index: int) -> str:
    return f"s3://incoming/shared/{index % 8}"
