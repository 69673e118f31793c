"""All DICOM objects of one image, made in memory from nothing but the source's header and the stages' outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dermbatch import __version__
from dermbatch.handover.dicom.header import source_header
from dermbatch.handover.dicom.picture import picture
from dermbatch.handover.dicom.report import report
from dermbatch.handover.dicom.segmentation import segmentation
from dermbatch.handover.dicom.stamp import stamped
from dermbatch.images.lesion import Mask, border_zone
from dermbatch.records.outcome import DicomKind, ImageInfo, ModelUsed, QualityFlag, StageRecord
from dermbatch.records.uids import uid_of
from dermbatch.stages import Stage

REVISION = "4"
"""To be raised whenever the same input gives different objects: they need different UIDs then."""

Kind = DicomKind

_DESCRIPTIONS: dict[Kind, str] = {
    "segmentation": "Dermbatch lesion mask, not for diagnosis on its own",
    "report": "Dermbatch measurements, not for diagnosis on its own",
    "enhanced": "Dermbatch enhanced lesion, not for diagnosis on its own",
}


def dicom_objects(
    data: bytes,
    image: ImageInfo,
    stages: Mapping[Stage, StageRecord],
    flags: Iterable[QualityFlag],
    *,
    mask: Mask | None,
    enhanced: NDArray[np.uint8] | None,
    border: NDArray[np.uint8] | None = None,
) -> dict[Kind, bytes]:
    """The objects of an image, as DICOM files; the same for the same arguments, byte by byte.

    Args:
        data: The source file, DICOM.
        image: What decoding found.
        stages: What the stages found.
        flags: Quality flags.
        mask: [H, W] uint8, not 0 where lesion; none where segmentation was not asked for.
        enhanced: [h, w, 3] uint8 RGB; none where there is no such picture.
        border: [h, w] uint8, the border map of a model that gives one.

    Returns:
        The objects that have something to say.
    """
    header = source_header(data, image)
    made: dict[Kind, bytes] = {}
    segmented, classified = stages.get(Stage.SEGMENT), stages.get(Stage.CLASSIFY)
    drawn: Dataset | None = None
    if segmented is not None and mask is not None and mask.any():
        named = _names("segmentation", header, image, [segmented])
        zone = None if border is None else border_zone(border, (mask.shape[0], mask.shape[1]))
        uid, series = named["uid"], named["series_uid"]
        drawn = segmentation(
            mask, header, image, segmented.model, uid=uid, series_uid=series, shown=_shown(segmented), zone=zone
        )
        made["segmentation"] = _file(drawn, header, "segmentation", segmented.model)
    told = [record for record in (segmented, classified) if record is not None]
    if told:
        # The flags and the UID of the mask depend on stages that appear in the report only through their flags.
        named = _names("report", header, image, [stages[stage] for stage in sorted(stages)])
        measurements = report(header, image, segmented, classified, flags, mask=drawn, **named)
        made["report"] = _file(measurements, header, "report", told[-1].model)
    finished = stages.get(Stage.ENHANCE)
    if finished is not None and enhanced is not None:
        named = _names("enhanced", header, image, [finished])
        shown = picture(enhanced, header, image, finished, purified=Stage.PURIFY in stages, **named)
        made["enhanced"] = _file(shown, header, "enhanced", finished.model)
    return made


def _shown(segmented: StageRecord) -> dict[str, str]:
    """The support that the model was shown, if any: name and version, digest, disease."""
    parameters = segmented.parameters.items()
    return {name: str(value) for name, value in parameters if name == "support" or name.startswith("support_")}


def _names(kind: Kind, header: Dataset, image: ImageInfo, records: Iterable[StageRecord]) -> dict[str, str]:
    """The UIDs of an object and of its series.

    The source's digest goes into them, since exporters sometimes give two images the same SOP Instance UID.
    Pictures of one source series made by the same models form one series; each mask and each report is a series of
    its own, since viewers show only the last one of a series.
    """
    records = list(records)
    models = [f"{record.model.name}@{record.model.version}:{record.model.sha256}" for record in records]
    keys = [record.key for record in records]
    ours = (kind, REVISION, __version__)
    alone = () if kind == "enhanced" else (header.SOPInstanceUID, str(image.frame or 1))
    return {
        "uid": uid_of("instance", *ours, header.SOPInstanceUID, image.sha256, *keys),
        "series_uid": uid_of("series", *ours, header.StudyInstanceUID, header.SeriesInstanceUID, *alone, *models),
    }


def _file(made: Dataset, header: Dataset, kind: Kind, model: ModelUsed) -> bytes:
    return stamped(made, header, _DESCRIPTIONS[kind], model)
