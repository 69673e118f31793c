"""One image on its way through the stages that are not known yet: run them, write their artifacts, remember them.

What is known of an image is looked up by a digest of its bytes that somebody vouches for, so an image is read only
if nobody does, or if a stage needs its pixels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Self

from dermbatch import layout, metrics
from dermbatch.errors import DermbatchError, StoreRefused, StoreUnavailable
from dermbatch.images.imagefile import Decode, read_image
from dermbatch.models.served import Array
from dermbatch.records.outcome import ClassifyOutput, ImageInfo, KnownImage, SegmentOutput, StageRecord
from dermbatch.settings import WorkerSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from workers.image import artifacts
from workers.image.known import extended, remember
from workers.image.pictures import Pictures, StaleArtifact
from workers.image.preview import original_of, preview
from workers.image.source import Source, SourceReplaced, Stopwatch
from workers.image.steps import Step, preview_key, run_step
from workers.image.timed import Timed
from workers.inference.protocol import Inference

_WRITERS = 2  # threads that encode and write artifacts while the next stage runs


@dataclass(frozen=True)
class Processed:
    """An image, and what its steps made of it.

    Attributes:
        image: What it is.
        stages: The record of every step.
        cached: The stages that were not run.
        shown: Its preview, a JPEG.
        pictures: Its pictures, read back on request.
    """

    image: ImageInfo
    stages: dict[Stage, StageRecord]
    cached: tuple[Stage, ...]
    shown: bytes
    pictures: Pictures


class Run:
    """One image on its way: :meth:`do` each of its steps in turn, then ask for what it has :meth:`processed`.

    Use it as a context manager, which ends once everything is written. If an error ends it, it remembers what was
    made until then, so that work done before an outage is not repeated.

    Args:
        source: The source object.
        steps: The stages that the job needs.
        recalled: What is known of the image, with its content; none if everything is to be computed.
        store: Where results lie.
        client: What runs the models.
        limits: How large a picture may be, how files of known stages are checked, how purified pictures are kept.
        stopwatch: Counts the time.
        decode: Decodes the source.
    """

    def __init__(
        self,
        source: Source,
        steps: tuple[Step, ...],
        recalled: tuple[str, KnownImage] | None,
        store: ObjectStore,
        client: Inference,
        limits: WorkerSettings,
        stopwatch: Stopwatch,
        decode: Decode = read_image,
    ) -> None:
        self._source, self._steps, self._store, self._client = source, steps, store, client
        self._stopwatch = stopwatch
        self._whole_pictures = limits.whole_pictures or source.frame is not None
        self._known = recalled[1] if recalled else None
        self._content = recalled[0] if recalled else source.content
        self._sha256 = self._known.image.sha256 if self._known else source.sha256
        known, previews = (self._known.stages, self._known.previews) if self._known else ({}, {})
        found = {step.stage: known[step.key] for step in steps if step.key in known}
        self._found = self._whole(found, read=limits.check_files)
        self._shown = previews.get(preview_key(steps)) if len(self._found) == len(steps) else None
        self._pictures = Pictures(
            self._body, limits.max_pixels, store, self._found, frame=source.frame, decode=decode
        )
        self._pool = ThreadPoolExecutor(_WRITERS)
        self._writes: list[Future[StageRecord]] = []
        self._made: dict[str, StageRecord] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        useless = StaleArtifact | SourceReplaced | StoreUnavailable | StoreRefused
        if self._made and isinstance(error, Exception) and not isinstance(error, useless):
            with suppress(DermbatchError):  # the failure itself is what counts
                self._remember(self._made, {})

    def do(self, step: Step) -> None:
        """Run a step that is not known, and have its artifacts written.

        Raises:
            StaleArtifact: If a picture of a known step cannot be read back.
            SourceReplaced: If the source was needed, and what is known belongs to another image.
        """
        if step.stage in self._found:
            metrics.CACHE_HITS.labels(step.stage).inc()
            return
        image, client = self._image, Timed(self._client)
        start = time.perf_counter()
        with self._stopwatch(step.stage):
            output, made = run_step(step, self._pictures, image, client, self._store)
        seconds = time.perf_counter() - start
        metrics.STAGE_SECONDS.labels(step.stage).observe(seconds)
        record = StageRecord(
            stage=step.stage,
            key=step.key,
            model=step.model.used,
            parameters=step.stated,
            fed_by=step.fed_by,
            artifacts={name: self._place(step, name) for name in made},
            seconds=round(seconds, 6),
            model_seconds=round(client.seconds, 6),
            device=step.model.device,
            billed_by=self._source.event,
            output=output,
        )
        _count_findings(record, image)
        self._writes.append(self._pool.submit(self._write, record, made))

    def processed(self) -> Processed:
        """The image once all its steps are done; what they made is written and remembered.

        Raises:
            StaleArtifact, SourceReplaced: As for :meth:`do`.
        """
        image, shown, records = self._image, self._shown, dict(self._found)
        if shown is None:
            drawn = self._pool.submit(self._draw)
            with self._stopwatch("write"):
                records |= {record.stage: record for record in (write.result() for write in self._writes)}
                shown = drawn.result()
                used = {record.key: record for record in records.values()}  # kept longer than unused ones
                self._remember(used, {preview_key(self._steps): shown})
        stages = {step.stage: records[step.stage] for step in self._steps}
        return Processed(image, stages, tuple(self._found), shown, self._pictures)

    def _whole(self, found: dict[Stage, StageRecord], *, read: bool) -> dict[Stage, StageRecord]:
        """The stages whose files are as they were written; damaged ones are run again."""
        if read:
            return {stage: record for stage, record in found.items() if artifacts.is_whole(self._store, record)}
        return artifacts.listed_whole(self._store, self._sha256, found, self._source.pool)

    def _place(self, step: Step, name: str) -> str:
        return layout.artifact(self._sha256, step.stage, step.key, name, self._source.pool)

    def _body(self) -> bytes:
        if self._source.sha256 != self._sha256:
            raise SourceReplaced
        return self._source.body

    @cached_property
    def _image(self) -> ImageInfo:
        """The image as known, or as decoded: without preview and purified picture its pixels are needed anyway."""
        if self._known is not None and (self._shown is not None or Stage.PURIFY in self._found):
            return self._known.image
        body = self._body()  # here, so that its time does not count as decoding
        with self._stopwatch("decode"):
            source = self._pictures.source
        height, width = source.pixels.shape[:2]
        return ImageInfo(
            sha256=self._sha256,
            bytes=len(body),
            media_type=source.media_type,
            height=height,
            width=width,
            pixel_spacing_mm=source.pixel_spacing_mm,
            pixel_aspect=source.pixel_aspect,
            notes=source.notes,
            frame=self._source.frame,
        )

    def _write(self, record: StageRecord, made: Mapping[str, Array]) -> StageRecord:
        # With many frames in a file, restoring each picture would mean reading the whole file.
        like = self._pictures.source.pixels if record.stage == Stage.PURIFY and not self._whole_pictures else None
        self._made[record.key] = written = artifacts.save(self._store, record, made, like)
        return written

    def _draw(self) -> bytes:
        """The preview, drawn from an earlier one if there is any, to avoid reading the source."""
        pictures, image = self._pictures, self._image
        earlier = list(self._known.previews.values())[-1:] if self._known else []
        original = original_of(earlier[0], image.height, image.width) if earlier else None
        if original is None:
            original = pictures.source.pixels
        return preview(original, pictures.mask, pictures.purified, pictures.enhanced, pictures.border)

    def _remember(self, stages: Mapping[str, StageRecord], previews: Mapping[str, bytes]) -> None:
        known = extended(self._known, self._image, stages, previews)
        remember(self._store, self._content, known, self._source.pool)


def _count_findings(record: StageRecord, image: ImageInfo) -> None:
    """Count what a stage found: if this shifts from week to week, the images or the model have changed."""
    model = (record.model.name, record.model.version)
    match record.output:
        case SegmentOutput(lesion=lesion):
            area = 0 if lesion is None else lesion.area_px
            metrics.LESION_SHARE.labels(*model).observe(area / (image.height * image.width))
        case ClassifyOutput(label=label):
            metrics.CLASSIFIED.labels(*model, label or "not_dermoscopic").inc()
