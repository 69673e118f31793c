"""What leaves the system with an image's result: DICOM objects, copies under the user's prefix, objects to a PACS.

All of it comes before the result record, so that an image without a record is handed over again: nothing is lost.
And all of it is the same each time, so that handing over twice does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dermbatch.records import ImageInfo, ImageJob, Sent, StageRecord
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from workers.handover.dicom.delivery import Delivered, write_dicom
from workers.handover.output import copy_files
from workers.handover.pacs.stow import Destinations
from workers.image.clock import Clock
from workers.image.source import Source


@dataclass(frozen=True)
class Handed:
    """What was handed over.

    Attributes:
        dicom: The DICOM objects.
        output: ``s3://bucket/key`` of the folder of copies; none where none was asked for.
        sent: What a PACS has taken; none where nothing was asked for, or there was nothing.
    """

    dicom: Delivered
    output: str | None
    sent: Sent | None


def hand_over(
    job: ImageJob,
    source: Source,
    image: ImageInfo,
    stages: Mapping[Stage, StageRecord],
    store: ObjectStore,
    destinations: Destinations,
    clock: Clock,
    alive: Callable[[], None],
) -> Handed:
    """Write the DICOM objects of an image, copy its files, send its objects: as far as the job asks for it.

    Args:
        job: What was asked.
        source: The image's object.
        image: What decoding said of it.
        stages: What the stages made; all is written.
        store: The object store.
        destinations: The PACS of the settings.
        clock: Counts the time.
        alive: Called between steps; raises where the lease is lost.

    Raises:
        StaleArtifact: Where a picture is gone from the store.
        SourceReplaced: Where the object is another than the one that the stages are of.
        PacsUnavailable, StoreUnavailable, StoreRefused: Where trying again may help.
        PacsRefused, PermanentError: Where it cannot.
    """
    destination = destinations.named(job.order.send_to) if job.order.send_to is not None else None
    made, output, sent = Delivered(), None, None
    if job.order.dicom:
        made = write_dicom(job, source, image, dict(stages), store, clock)
    if job.order.output is not None:
        alive()
        with clock("output"):
            output = copy_files(job, stages, made.keys, store)
    if destination is not None and made.bodies:
        alive()
        for key in made.keys.values():
            store.audit.note("send", f"s3://{store.bucket}/{key}", to=f"pacs:{destination.name}")
        with clock("send"):
            sent = destination.send(made.bodies)
        alive()
    return Handed(made, output, sent)
