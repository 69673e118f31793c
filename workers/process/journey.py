"""The journey of one image: look up what is known, run the stages that are not done, hand over, make the record.

What leaves the system with a result comes before the record, so that an image without a record is handed over
again: nothing is lost. And all of it is the same each time, so that handing over twice does no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

from dermbatch import __version__, layout
from dermbatch.handover.pacs.stow import NOWHERE, Destinations
from dermbatch.images.dicomfile import MEDIA_TYPE
from dermbatch.images.imagefile import Decode, read_image
from dermbatch.records.asked import ImageJob
from dermbatch.records.outcome import KnownImage, ResultRecord, Sent, SourceInfo, Usage
from dermbatch.settings import WorkerSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import written_as
from workers.image.known import recall
from workers.image.lastfile import LastFile
from workers.image.pictures import BORDER, ENHANCED, MASK, StaleArtifact, read_back
from workers.image.quality import quality_flags
from workers.image.risk import assessed
from workers.image.run import Processed, Run
from workers.image.source import Source, SourceReplaced, Stopwatch
from workers.image.steps import Step, plan, preview_key
from workers.inference.protocol import Inference
from workers.process.delivery import Delivered, write_dicom
from workers.process.output import copy_files, write_result

_Handed = tuple[Delivered, str | None, Sent | None]


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
    decode: Decode = read_image,
    last: LastFile | None = None,
    waited: float | None = None,
) -> ResultRecord:
    """Process one image: write its artifacts and hand them over. Writing the record is left to the caller.

    Args:
        job: The image, its stages and models.
        store: The object store.
        client: The engine that runs the models.
        limits: Largest file and picture.
        attempt: Number of this attempt, as the ledger counts.
        worker: Name of this worker slot.
        alive: Called between steps; raises if the lease is lost.
        destinations: The PACS of the settings.
        decode: Decodes the source.
        last: The file that was read for the previous image.
        waited: Seconds that the image spent in the queue, by the ledger.

    Raises:
        BadInput: If the object is not an image that Dermbatch takes.
        ObjectNotFound: If the object does not exist.
        ModelContractError: If a model is missing or breaks its contract.
        PacsRefused, PermanentError: If the result cannot be handed over.
        StoreUnavailable, StoreRefused, InferenceUnavailable, PacsUnavailable: If another try may succeed.
    """
    started, stopwatch = datetime.now(UTC), Stopwatch()
    source = Source(job, store, limits, stopwatch, last)
    with stopwatch("read"):
        steps = plan(job, client)
    with closing(source):
        # An attempt that was interrupted may have left artifacts, even of content that was not known before.
        recalled = recall(store, source, stopwatch) if job.known or attempt > 1 else None
        processed, handed = _made(
            job, source, steps, recalled, store, client, limits, stopwatch, alive, destinations, decode
        )
    dicom, output, sent = handed
    outputs = [record.output for record in processed.stages.values()]
    flags = quality_flags(outputs, may_have_text=job.may_have_text)
    risk, possible = assessed(steps, outputs, flags)
    record = ResultRecord(
        batch=job.batch,
        index=job.index,
        name=job.name,
        source=SourceInfo(uri=job.source, **dict(processed.image)),
        stages=processed.stages,
        cached=processed.cached,
        flags=flags,
        risk=risk,
        possible=possible,
        preview=layout.preview(processed.image.sha256, preview_key(steps), job.order.pool),
        preview_jpeg=processed.shown,
        dicom=dicom.keys,
        dicom_written={kind: written_as(body) for kind, body in dicom.bodies.items()},
        no_dicom=dicom.why_none,
        dicom_notes=dicom.notes,
        sent=sent,
        output=output,
        attempt=attempt,
        waited=waited,
        worker=worker,
        started=started,
        finished=datetime.now(UTC),
        seconds=stopwatch.seconds,
        usage=Usage(event=job.event, bytes_read=source.bytes_read),
        software=__version__,
    )
    if output is not None:
        write_result(output, record, store)
    return record


def _made(
    job: ImageJob,
    source: Source,
    steps: tuple[Step, ...],
    recalled: tuple[str, KnownImage] | None,
    store: ObjectStore,
    client: Inference,
    limits: WorkerSettings,
    stopwatch: Stopwatch,
    alive: Callable[[], None],
    destinations: Destinations,
    decode: Decode,
) -> tuple[Processed, _Handed]:
    """Run the steps whose results are not known, and hand over."""
    for last, found in ((False, recalled), (True, None)):
        try:
            with Run(source, steps, found, store, client, limits, stopwatch, decode) as run:
                for step in steps:
                    alive()
                    run.do(step)
                processed = run.processed()
            alive()
            return processed, _hand_over(job, source, processed, store, destinations, stopwatch, alive)
        except (StaleArtifact, SourceReplaced):  # known artifacts are gone or of another image: make all again
            if last:
                raise
    raise AssertionError("the second time ends it")


def _hand_over(
    job: ImageJob,
    source: Source,
    processed: Processed,
    store: ObjectStore,
    destinations: Destinations,
    stopwatch: Stopwatch,
    alive: Callable[[], None],
) -> _Handed:
    """Write the DICOM objects of an image, copy its files, send its objects: as far as the job asks for it.

    Returns:
        The DICOM objects, ``s3://bucket/key`` of the folder of copies, and what a PACS has taken.

    Raises:
        StaleArtifact: If a picture is gone from the store.
        SourceReplaced: If the object is not the one that the stages are of.
    """
    destination = destinations.named(job.order.send_to) if job.order.send_to is not None else None
    made, output, sent = Delivered(), None, None
    if job.order.dicom:
        made = _make_dicom(job, source, processed, store, stopwatch)
    if job.order.output is not None:
        alive()
        with stopwatch("output"):
            output = copy_files(job, processed.stages, processed.pictures, made.keys, store)
    if destination is not None and made.bodies:
        alive()
        for key in made.keys.values():
            store.audit.note("send", f"s3://{store.bucket}/{key}", to=f"pacs:{destination.name}")
        with stopwatch("send"):
            sent = destination.send(made.bodies)
        alive()
    return made, output, sent


def _make_dicom(
    job: ImageJob, source: Source, processed: Processed, store: ObjectStore, stopwatch: Stopwatch
) -> Delivered:
    image, stages = processed.image, processed.stages
    if image.media_type != MEDIA_TYPE:
        return Delivered(why_none="not_dicom")
    if source.sha256 != image.sha256:
        raise SourceReplaced
    flags = quality_flags([record.output for record in stages.values()], may_have_text=job.may_have_text)
    with stopwatch("dicom"):
        segmented, enhanced = stages.get(Stage.SEGMENT), stages.get(Stage.ENHANCE)
        pictures = {
            "mask": read_back(store, segmented, MASK),
            "enhanced": read_back(store, enhanced, ENHANCED),
            "border": read_back(store, segmented, BORDER),
        }
        return write_dicom(job, source.body, image, stages, flags, store, **pictures)
