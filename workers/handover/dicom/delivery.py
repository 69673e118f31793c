"""Writing an image's DICOM objects beside its result, before the record that names them."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from dermbatch import layout
from dermbatch.errors import ObjectNotFound
from dermbatch.images.dicomfile import MEDIA_TYPE
from dermbatch.images.quiet import quiet
from dermbatch.records import DicomKind, ImageInfo, ImageJob, NoDicom, StageRecord
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from workers.image import png
from workers.image.artifacts import Artifacts
from workers.image.clock import Clock
from workers.image.pictures import ENHANCED, MASK, Image, StaleArtifact
from workers.image.quality import quality_flags
from workers.image.source import Source, SourceReplaced

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Delivered:
    """What was written.

    Attributes:
        keys: Object keys by kind.
        bodies: The objects themselves, as files.
        why_none: Why there is nothing, where there is nothing.
    """

    keys: dict[DicomKind, str] = field(default_factory=dict)
    bodies: dict[DicomKind, bytes] = field(default_factory=dict)
    why_none: NoDicom | None = None


def write_dicom(
    job: ImageJob,
    source: Source,
    image: ImageInfo,
    stages: dict[Stage, StageRecord],
    store: ObjectStore,
    clock: Clock,
) -> Delivered:
    """Make the DICOM objects of an image and write them; a repeat writes the same bytes.

    Args:
        job: Which image.
        source: Its object, whose header says whose it is.
        image: What decoding said of it.
        stages: What the stages found; their pictures are read back from the store.
        store: Where to write.
        clock: Counts the time.

    Raises:
        StaleArtifact: Where a picture is gone.
        SourceReplaced: Where the object is another than the one that the stages are of.
        StoreUnavailable, StoreRefused: Where trying again may help.
    """
    if image.media_type != MEDIA_TYPE:
        return Delivered(why_none="not_dicom")
    if source.sha256 != image.sha256:
        raise SourceReplaced
    # Not at the top: it takes a second and much memory, which workers without such batches need not spend.
    from workers.handover.dicom.objects import dicom_objects  # noqa: PLC0415

    artifacts = Artifacts(store, image.sha256)
    with clock("dicom"):
        mask = _picture(artifacts, stages.get(Stage.SEGMENT), MASK)
        enhanced = _picture(artifacts, stages.get(Stage.ENHANCE), ENHANCED)
        flags = quality_flags(record.output for record in stages.values())
        try:
            with quiet():  # pydicom and highdicom warn of odd values, and quote them
                made = dicom_objects(source.body, image, stages, flags, mask=mask, enhanced=enhanced)
        except Exception as error:  # a header that nobody thought of must not cost the result
            # Without the text, which may quote the header.
            _log.warning("no DICOM objects", batch=job.batch, index=job.index, error=type(error).__name__)
            return Delivered(why_none="header_unusable")
        keys = {kind: layout.dicom(job.batch, job.index, kind) for kind in made}
        for kind, body in made.items():
            store.put(keys[kind], body, MEDIA_TYPE)
    return Delivered(keys, made) if keys else Delivered(why_none="nothing_to_say")


def _picture(artifacts: Artifacts, record: StageRecord | None, name: str) -> Image | None:
    if record is None or name not in record.artifacts:
        return None
    try:
        return png.decode(artifacts.load(record, name))
    except (ObjectNotFound, ValueError) as error:
        raise StaleArtifact(record.artifacts[name]) from error
