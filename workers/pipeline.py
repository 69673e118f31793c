"""The journey of one image through a worker: read, decode, run the stages that are not done yet, write, report.

A plain function of a job and its connections. What the object store holds of an image's stages already is not
computed again; where it holds all of them, the image is not even decoded.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from dermbatch import __version__, layout, metrics
from dermbatch.records import ImageInfo, ImageJob, ResultRecord, SourceInfo, StageRecord
from dermbatch.settings import WorkerSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore, split_uri
from workers.artifacts import Artifacts, encode
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
        StoreUnavailable, InferenceUnavailable: Where trying again may help.
    """
    started, clock = datetime.now(UTC), Clock()
    with clock("read"):
        body = store.get(*split_uri(job.source), max_bytes=limits.max_bytes)
        sha256 = hashlib.sha256(body).hexdigest()
        artifacts = Artifacts(store, sha256)
        steps = plan(job, client)
        found = {step.stage: record for step in steps if (record := artifacts.find(step.stage, step.key))}
    run = Run(body, sha256, limits.max_pixels, artifacts, clock)
    try:
        image, records, shown = run.through(steps, found, client, alive)
    except StaleArtifact:
        found = {}
        image, records, shown = run.through(steps, found, client, alive)
    return ResultRecord(
        batch=job.batch,
        index=job.index,
        name=job.name,
        source=SourceInfo(uri=job.source, **dict(image)),
        stages=records,
        cached=tuple(found),
        flags=quality_flags(record.output for record in records.values()),
        preview=shown,
        attempt=attempt,
        worker=worker,
        started=started,
        finished=datetime.now(UTC),
        seconds=clock.seconds,
        software=__version__,
    )


@dataclass
class Run:
    """One image on its way through the stages.

    Attributes:
        body: The source object.
        sha256: Its digest.
        max_pixels: Larger pictures are refused.
        artifacts: Where results lie.
        clock: Counts the time.
    """

    body: bytes
    sha256: str
    max_pixels: int
    artifacts: Artifacts
    clock: Clock

    def through(
        self,
        steps: tuple[Step, ...],
        found: Mapping[Stage, StageRecord],
        client: Inference,
        alive: Callable[[], None],
    ) -> tuple[ImageInfo, dict[Stage, StageRecord], str]:
        """Run the steps that were not found, and write what they make.

        Returns:
            What the image is, the record of every step, and the key of the preview.

        Raises:
            StaleArtifact: Where one of the found steps cannot be read back.
        """
        pictures = Pictures(self.body, self.max_pixels, self.artifacts, found)
        image = self._image_info(pictures, found)
        records: dict[Stage, StageRecord] = {}
        with ThreadPoolExecutor(_WRITERS) as pool:
            writes: list[Future[None]] = []
            for step in steps:
                alive()
                if step.stage in found:
                    record = found[step.stage]
                    metrics.CACHE_HITS.labels(step.stage).inc()
                else:
                    record, made = self._run(step, pictures, image, client)
                    writes.append(pool.submit(self._write, record, made))
                # Every stage.json says what the image is; the result record, which holds them all, says it once.
                records[step.stage] = record.model_copy(update={"image": None})
            shown = layout.preview(self.sha256, preview_key(steps))
            if shown not in self.artifacts:
                writes.append(pool.submit(self._write_preview, shown, pictures))
            with self.clock("write"):
                for write in writes:
                    write.result()
        alive()
        return image, records, shown

    def _image_info(self, pictures: Pictures, found: Mapping[Stage, StageRecord]) -> ImageInfo:
        for record in found.values():
            if record.image is not None:
                return record.image
        with self.clock("decode"):
            source = pictures.source
        height, width = source.pixels.shape[:2]
        return ImageInfo(
            sha256=self.sha256,
            bytes=len(self.body),
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
        with self.clock(step.stage):
            output, made = run_step(step, pictures, image, client)
        seconds = time.perf_counter() - start
        metrics.STAGE_SECONDS.labels(step.stage).observe(seconds)
        record = StageRecord(
            stage=step.stage,
            key=step.key,
            model=step.model.used,
            parameters=asdict(step.parameters),
            fed_by=step.fed_by,
            artifacts={name: self.artifacts.place(step.stage, step.key, name) for name in made},
            seconds=round(seconds, 6),
            image=image,
            output=output,
        )
        return record, made

    def _write(self, record: StageRecord, made: Mapping[str, Array]) -> None:
        self.artifacts.save(record, {name: encode(name, array) for name, array in made.items()})

    def _write_preview(self, key: str, pictures: Pictures) -> None:
        shown = preview(pictures.source.pixels, pictures.mask, pictures.purified, pictures.enhanced)
        self.artifacts.put(key, shown)
