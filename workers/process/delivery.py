"""Writing an image's DICOM objects beside its result, before the record that names them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import structlog
from numpy.typing import NDArray

from dermbatch import layout
from dermbatch.images.dicomfile import MEDIA_TYPE
from dermbatch.images.lesion import Mask
from dermbatch.images.quiet import quiet
from dermbatch.records.asked import ImageJob
from dermbatch.records.outcome import DicomKind, ImageInfo, NoDicom, QualityFlag, StageRecord
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Delivered:
    """What was written.

    Attributes:
        keys: Object keys by kind.
        bodies: The objects themselves, as files.
        why_none: Why there is nothing, if there is nothing.
        notes: How they must differ from what the source says.
    """

    keys: dict[DicomKind, str] = field(default_factory=dict)
    bodies: dict[DicomKind, bytes] = field(default_factory=dict)
    why_none: NoDicom | None = None
    notes: tuple[str, ...] = ()


def write_dicom(
    job: ImageJob,
    body: bytes,
    image: ImageInfo,
    stages: Mapping[Stage, StageRecord],
    flags: Iterable[QualityFlag],
    store: ObjectStore,
    *,
    mask: Mask | None,
    enhanced: NDArray[np.uint8] | None,
    border: NDArray[np.uint8] | None = None,
) -> Delivered:
    """Make the DICOM objects of an image and write them; repeating this writes the same bytes.

    Args:
        job: Which image.
        body: The source file, DICOM, whose header says whose the image is.
        image: What decoding found.
        stages: What the stages found.
        flags: Quality flags.
        store: Where to write.
        mask: [H, W] uint8, 255 where lesion; none where segmentation was not asked for.
        enhanced: [h, w, 3] uint8 RGB; none where there is no such picture.
        border: [h, w] uint8, the border map of a model that gives one.

    Raises:
        StoreUnavailable, StoreRefused: If trying again may help.
    """
    # Not at the top: it takes a second and much memory, which workers without such batches need not spend.
    from dermbatch.handover.dicom.header import changes  # noqa: PLC0415
    from dermbatch.handover.dicom.objects import dicom_objects  # noqa: PLC0415

    try:
        with quiet():  # pydicom and highdicom warn about odd values, quoting them
            made = dicom_objects(body, image, stages, flags, mask=mask, enhanced=enhanced, border=border)
            notes = changes(body)
    except Exception as error:  # an unforeseen header must not cost the result
        # Logged without the text, which may quote the header.
        _log.warning("no DICOM objects", batch=job.batch, index=job.index, error=type(error).__name__)
        return Delivered(why_none="header_unusable")
    keys = {kind: layout.dicom(job.batch, job.index, kind) for kind in made}
    for kind, file in made.items():
        store.put(keys[kind], file, MEDIA_TYPE)
    return Delivered(keys, made, notes=notes) if keys else Delivered(why_none="nothing_to_say")
