"""The journey of one image through a worker: look up what is known, read, run the stages that are not done, write.

A plain function of a job and its connections. What is known of an image is asked for by the fingerprint that the
manifest gives, so an image of which all is known is not even read.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from dermbatch import __version__, layout, metrics
from dermbatch.errors import DermbatchError, StoreUnavailable
from dermbatch.records import ImageInfo, ImageJob, KnownImage, ResultRecord, SourceInfo, StageRecord
from dermbatch.settings import WorkerSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore, split_uri
from workers.artifacts import Artifacts, encode
from workers.known import extended, recall, remember
from workers.pictures import Pictures, StaleArtifact
from workers.preview import preview
from workers.quality import quality_flags
from workers.served import Array, Inference
from workers.steps import Step, plan, preview_key, run_step

_WRITERS = 2  # threads that encode and write artifacts while the next stage waits for Triton


@dataclass
class Clock:
    """Seconds by what they were spent on."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Count the time inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[what] = round(self.seconds.get(what, 0.0) + spent, 6)


@dataclass(frozen=True)
class Content:
    """A source object that was read.

    Attributes:
        body: Its bytes.
        sha256: Their digest.
        fingerprint: What the cache calls it.
    """

    body: bytes
    sha256: str
    fingerprint: str


@dataclass(frozen=True)
class Outcome:
    """What became of an image.

    Attributes:
        image: What it is.
        stages: The record of every step.
        shown: Its preview, a JPEG.
    """

    image: ImageInfo
    stages: dict[Stage, StageRecord]
    shown: bytes


def process(
    job: ImageJob,
    *,
    store: ObjectStore,
    client: Inference,
    limits: WorkerSettings,
    attempt: int,
    worker: str,
    alive: Callable[[], None],
) -> ResultRecord:
    """Process one image. When it returns, all artifacts are written; the record itself is the caller's to write.

    Args:
        job: What to do.
        store: The object store.
        client: Triton.
        limits: Largest file and picture.
        attempt: Counted by the ledger.
        worker: Name of this worker slot.
        alive: Called between steps; raises where the lease is lost.

    Raises:
        BadInput: Where the object is no image that the system takes.
        ObjectNotFound: Where it is not there.
        ModelContractError: Where a model is missing or breaks its contract.
        StoreUnavailable, StoreRefused, InferenceUnavailable: Where trying again may help.
    """
    started, clock = datetime.now(UTC), Clock()
    with clock("read"):
        steps = plan(job, client)
        fingerprint = layout.fingerprint(job.source, job.etag, job.size)
        known = recall(store, fingerprint) if fingerprint else None
        outcome = _all_known(known, steps)
        if outcome is None:
            content = _read(job, store, limits.max_bytes)
            if content.fingerprint != fingerprint:  # the manifest gave none, or the object was replaced since
                known = recall(store, content.fingerprint)
                outcome = _all_known(known, steps)
    if outcome is not None:
        found = tuple(outcome.stages)
        for stage in found:
            metrics.CACHE_HITS.labels(stage).inc()
        alive()
    else:
        run = Run(content, known, limits.max_pixels, store, clock)
        outcome, found = run.whole(steps, client, alive)
    return ResultRecord(
        batch=job.batch,
        index=job.index,
        name=job.name,
        source=SourceInfo(uri=job.source, **dict(outcome.image)),
        stages=outcome.stages,
        cached=found,
        flags=quality_flags(record.output for record in outcome.stages.values()),
        preview=layout.preview(outcome.image.sha256, preview_key(steps)),
        preview_jpeg=outcome.shown,
        attempt=attempt,
        worker=worker,
        started=started,
        finished=datetime.now(UTC),
        seconds=clock.seconds,
        software=__version__,
    )


def _all_known(known: KnownImage | None, steps: tuple[Step, ...]) -> Outcome | None:
    """The outcome, where nothing needs to be made; it is not looked whether the artifacts are still there."""
    shown = known.previews.get(preview_key(steps)) if known else None
    if known is None or shown is None or any(step.key not in known.stages for step in steps):
        return None
    return Outcome(known.image, {step.stage: known.stages[step.key] for step in steps}, shown)


def _read(job: ImageJob, store: ObjectStore, max_bytes: int) -> Content:
    """The source object, under the fingerprint of what was really read: it may have been replaced since."""
    body, etag = store.read(*split_uri(job.source), max_bytes=max_bytes)
    etag = etag or hashlib.md5(body, usedforsecurity=False).hexdigest()  # what an ordinary ETag is
    fingerprint = str(layout.fingerprint(job.source, etag, len(body)))  # never none where both are known
    return Content(body, hashlib.sha256(body).hexdigest(), fingerprint)


class Run:
    """One image on its way through the stages that are not known yet.

    Args:
        content: The source object.
        known: What is known of it.
        max_pixels: Larger pictures are refused.
        store: Where results lie.
        clock: Counts the time.
    """

    def __init__(
        self, content: Content, known: KnownImage | None, max_pixels: int, store: ObjectStore, clock: Clock
    ) -> None:
        self._content = content
        # ETags of other stores may be no digests; what is known of other bytes is of no use here.
        self._known = known if known is not None and known.image.sha256 == content.sha256 else None
        self._max_pixels = max_pixels
        self._store = store
        self._artifacts = Artifacts(store, content.sha256)
        self._clock = clock
        self._made: dict[str, StageRecord] = {}

    def whole(
        self, steps: tuple[Step, ...], client: Inference, alive: Callable[[], None]
    ) -> tuple[Outcome, tuple[Stage, ...]]:
        """Run the steps that are not known, write what they make, and remember it.

        Returns:
            The outcome, and the stages that were not run.
        """
        stages = self._known.stages if self._known else {}
        found = {step.stage: stages[step.key] for step in steps if step.key in stages}
        try:
            outcome = self._through(steps, found, client, alive)
        except StaleArtifact:
            found = {}
            outcome = self._through(steps, found, client, alive)
        with self._clock("write"):
            used = {record.key: record for record in outcome.stages.values()}  # kept longer than what is not
            self._remember(outcome.image, used, {preview_key(steps): outcome.shown})
        alive()
        return outcome, tuple(found)

    def _through(
        self,
        steps: tuple[Step, ...],
        found: Mapping[Stage, StageRecord],
        client: Inference,
        alive: Callable[[], None],
    ) -> Outcome:
        """Run the steps that were not found, and write what they make.

        Raises:
            StaleArtifact: Where one of the found steps cannot be read back.
        """
        pictures = Pictures(self._content.body, self._max_pixels, self._artifacts, found)
        image = self._image_info(pictures)
        records = dict(found)
        try:
            with ThreadPoolExecutor(_WRITERS) as pool:
                writes: list[Future[StageRecord]] = []
                for step in steps:
                    alive()
                    if step.stage in found:
                        metrics.CACHE_HITS.labels(step.stage).inc()
                        continue
                    record, made = self._run(step, pictures, image, client)
                    writes.append(pool.submit(self._write, record, made))
                drawn = pool.submit(_draw, pictures)
                with self._clock("write"):
                    records |= {record.stage: record for record in (write.result() for write in writes)}
                    shown = drawn.result()
        except (StaleArtifact, StoreUnavailable):
            raise
        except Exception:
            # What was done before an outage is not done again. The failure itself is what counts.
            with suppress(DermbatchError):
                if self._made:
                    self._remember(image, self._made, {})
            raise
        return Outcome(image, {step.stage: records[step.stage] for step in steps}, shown)

    def _image_info(self, pictures: Pictures) -> ImageInfo:
        if self._known is not None:
            return self._known.image
        with self._clock("decode"):
            source = pictures.source
        height, width = source.pixels.shape[:2]
        return ImageInfo(
            sha256=self._content.sha256,
            bytes=len(self._content.body),
            media_type=source.media_type,
            height=height,
            width=width,
            pixel_spacing_mm=source.pixel_spacing_mm,
            notes=source.notes,
        )

    def _run(
        self, step: Step, pictures: Pictures, image: ImageInfo, client: Inference
    ) -> tuple[StageRecord, dict[str, Array]]:
        start = time.perf_counter()
        with self._clock(step.stage):
            output, made = run_step(step, pictures, image, client)
        seconds = time.perf_counter() - start
        metrics.STAGE_SECONDS.labels(step.stage).observe(seconds)
        record = StageRecord(
            stage=step.stage,
            key=step.key,
            model=step.model.used,
            parameters=asdict(step.parameters),
            fed_by=step.fed_by,
            artifacts={name: self._artifacts.place(step.stage, step.key, name) for name in made},
            seconds=round(seconds, 6),
            output=output,
        )
        return record, made

    def _write(self, record: StageRecord, made: Mapping[str, Array]) -> StageRecord:
        files = {name: encode(name, array) for name, array in made.items()}
        self._made[record.key] = written = self._artifacts.save(record, files)
        return written

    def _remember(
        self, image: ImageInfo, stages: Mapping[str, StageRecord], previews: Mapping[str, bytes]
    ) -> None:
        remember(self._store, self._content.fingerprint, extended(self._known, image, stages, previews))


def _draw(pictures: Pictures) -> bytes:
    return preview(pictures.source.pixels, pictures.mask, pictures.purified, pictures.enhanced)
