"""The journey of one image through a worker: look up what is known, read, run the stages that are not done, write.

A plain function of a job and its connections. What is known of an image is asked for by the fingerprint that the
manifest gives, so an image is only read where a stage needs its own pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from dermbatch import __version__, layout, metrics
from dermbatch.errors import DermbatchError, StoreUnavailable
from dermbatch.records import ImageInfo, ImageJob, KnownImage, ResultRecord, SourceInfo, StageRecord
from dermbatch.settings import WorkerSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from workers.handover.handover import Handed, hand_over
from workers.handover.output import write_result
from workers.handover.pacs.stow import NOWHERE, Destinations
from workers.image import drift
from workers.image.artifacts import Artifacts, encode
from workers.image.clock import Clock
from workers.image.known import extended, recall, remember
from workers.image.pictures import Pictures, StaleArtifact
from workers.image.preview import original_of, preview
from workers.image.quality import quality_flags
from workers.image.source import Source, SourceReplaced
from workers.image.steps import Step, plan, preview_key, run_step
from workers.triton.served import Array, Inference

_WRITERS = 2  # threads that encode and write artifacts while the next stage waits for Triton


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
    destinations: Destinations = NOWHERE,
) -> ResultRecord:
    """Process one image. When it returns, all is written and handed over but the record, which is the caller's.

    Args:
        job: What to do.
        store: The object store.
        client: Triton.
        limits: Largest file and picture.
        attempt: Counted by the ledger.
        worker: Name of this worker slot.
        alive: Called between steps; raises where the lease is lost.
        destinations: The PACS of the settings.

    Raises:
        BadInput: Where the object is no image that the system takes.
        ObjectNotFound: Where it is not there.
        ModelContractError: Where a model is missing or breaks its contract.
        PacsRefused, PermanentError: Where the result cannot be handed over.
        StoreUnavailable, StoreRefused, InferenceUnavailable, PacsUnavailable: Where trying again may help.
    """
    started, clock = datetime.now(UTC), Clock()
    source = Source(job, store, limits.max_bytes, clock)
    with clock("read"):
        steps = plan(job, client)
        listed = layout.fingerprint(job.source, job.etag, job.size, job.frame)
        known = recall(store, listed) if listed else None
    fingerprint = listed if listed and known else source.fingerprint
    if known is None and fingerprint != listed:  # the manifest has none, or the object was replaced since
        with clock("read"):
            known = recall(store, fingerprint)
    outcome, found = _all_known(known, steps), tuple(step.stage for step in steps)
    if outcome is not None:
        for stage in found:
            metrics.CACHE_HITS.labels(stage).inc()
        alive()
    else:
        try:
            run = Run(source, fingerprint, known, limits.max_pixels, store, clock)
            outcome, found = run.whole(steps, client, alive)
        except SourceReplaced:
            run = Run(source, source.fingerprint, None, limits.max_pixels, store, clock)
            outcome, found = run.whole(steps, client, alive)

    def handed_over(outcome: Outcome) -> Handed:
        return hand_over(job, source, outcome.image, outcome.stages, store, destinations, clock, alive)

    try:
        handed = handed_over(outcome)
    except (StaleArtifact, SourceReplaced):  # what was found is gone, or is of another image: made anew
        run = Run(source, source.fingerprint, None, limits.max_pixels, store, clock)
        outcome, found = run.whole(steps, client, alive)
        handed = handed_over(outcome)
    record = ResultRecord(
        batch=job.batch,
        index=job.index,
        name=job.name,
        source=SourceInfo(uri=job.source, **dict(outcome.image)),
        stages=outcome.stages,
        cached=found,
        flags=quality_flags(
            (record.output for record in outcome.stages.values()), may_have_text=job.may_have_text
        ),
        preview=layout.preview(outcome.image.sha256, preview_key(steps)),
        preview_jpeg=outcome.shown,
        dicom=handed.dicom.keys,
        no_dicom=handed.dicom.why_none,
        sent=handed.sent,
        output=handed.output,
        attempt=attempt,
        worker=worker,
        started=started,
        finished=datetime.now(UTC),
        seconds=clock.seconds,
        software=__version__,
    )
    if handed.output is not None:
        write_result(handed.output, record, store)
    return record


def _all_known(known: KnownImage | None, steps: tuple[Step, ...]) -> Outcome | None:
    """The outcome, where nothing needs to be made; it is not looked whether the artifacts are still there."""
    shown = known.previews.get(preview_key(steps)) if known else None
    if known is None or shown is None or any(step.key not in known.stages for step in steps):
        return None
    return Outcome(known.image, {step.stage: known.stages[step.key] for step in steps}, shown)


class Run:
    """One image on its way through the stages that are not known yet.

    Args:
        source: The source object.
        fingerprint: What the cache calls it.
        known: What is known of it.
        max_pixels: Larger pictures are refused.
        store: Where results lie.
        clock: Counts the time.
    """

    def __init__(
        self,
        source: Source,
        fingerprint: str,
        known: KnownImage | None,
        max_pixels: int,
        store: ObjectStore,
        clock: Clock,
    ) -> None:
        self._source = source
        self._fingerprint = fingerprint
        self._known = known
        self._max_pixels = max_pixels
        self._store = store
        self._sha256 = known.image.sha256 if known else source.sha256
        self._artifacts = Artifacts(store, self._sha256)
        self._clock = clock
        self._made: dict[str, StageRecord] = {}

    def whole(
        self, steps: tuple[Step, ...], client: Inference, alive: Callable[[], None]
    ) -> tuple[Outcome, tuple[Stage, ...]]:
        """Run the steps that are not known, write what they make, and remember it.

        Returns:
            The outcome, and the stages that were not run.

        Raises:
            SourceReplaced: Where the source was needed, and what is known is not of it.
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
        pictures = Pictures(self._body, self._max_pixels, self._artifacts, found, frame=self._source.frame)
        image = self._known.image if self._known and Stage.PURIFY in found else self._decoded(pictures)
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
                drawn = pool.submit(self._draw, pictures, image)
                with self._clock("write"):
                    records |= {record.stage: record for record in (write.result() for write in writes)}
                    shown = drawn.result()
        except (StaleArtifact, SourceReplaced, StoreUnavailable):
            raise
        except Exception:
            # What was done before an outage is not done again. The failure itself is what counts.
            with suppress(DermbatchError):
                if self._made:
                    self._remember(image, self._made, {})
            raise
        return Outcome(image, {step.stage: records[step.stage] for step in steps}, shown)

    def _body(self) -> bytes:
        if self._source.sha256 != self._sha256:
            raise SourceReplaced
        return self._source.body

    def _decoded(self, pictures: Pictures) -> ImageInfo:
        self._body()  # so that its time is not counted as decoding
        with self._clock("decode"):
            source = pictures.source
        height, width = source.pixels.shape[:2]
        return ImageInfo(
            sha256=self._sha256,
            bytes=len(self._source.body),
            media_type=source.media_type,
            height=height,
            width=width,
            pixel_spacing_mm=source.pixel_spacing_mm,
            notes=source.notes,
            frame=self._source.frame,
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
        drift.note(record, image)
        return record, made

    def _write(self, record: StageRecord, made: Mapping[str, Array]) -> StageRecord:
        files = {name: encode(name, array) for name, array in made.items()}
        self._made[record.key] = written = self._artifacts.save(record, files)
        return written

    def _draw(self, pictures: Pictures, image: ImageInfo) -> bytes:
        """The preview; from an earlier one where there is any, as the source need not be read then."""
        earlier = list(self._known.previews.values())[-1:] if self._known else []
        original = original_of(earlier[0], image.height, image.width) if earlier else None
        if original is None:
            original = pictures.source.pixels
        return preview(original, pictures.mask, pictures.purified, pictures.enhanced)

    def _remember(
        self, image: ImageInfo, stages: Mapping[str, StageRecord], previews: Mapping[str, bytes]
    ) -> None:
        remember(self._store, self._fingerprint, extended(self._known, image, stages, previews))
