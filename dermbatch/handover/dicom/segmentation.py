"""The lesion mask as a DICOM Segmentation (PS3.3, A.51): binary segments on the source image's own grid.

The lesion is the first segment. Others are the dermoscopic features that a reader has drawn, and the zone in which
the lesion ends if the model gives a border map. Segments may overlap.
"""

from __future__ import annotations

from collections.abc import Mapping

import highdicom as hd
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dermbatch import __version__
from dermbatch.handover.dicom.header import nameless
from dermbatch.handover.dicom.stamp import SYNTAX
from dermbatch.images.lesion import Flags, Mask
from dermbatch.records import codes
from dermbatch.records.marks import MANUFACTURER
from dermbatch.records.outcome import ImageInfo, ModelUsed
from dermbatch.records.uids import uid_of

SERIES_NUMBER = 9001
SKIN_LESION = "lesion"
"""Tracking Identifier of the lesion; those of features are their terms."""

_COLOUR = hd.color.CIELabColor.from_rgb(0, 230, 118)
"""Recommended Display CIELab Value (PS3.3, C.8.20.2): the green in which previews and the desk outline lesions."""
_ZONE_COLOUR = hd.color.CIELabColor.from_rgb(255, 160, 0)
"""Likewise: the amber in which previews tint the zone."""

_OWN_PLANE, _OWN_CORNER = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0)
"""Image Orientation and Image Position (Patient) of a picture that states none: rows along x, columns along y."""


def segmentation(
    mask: Mask,
    header: Dataset,
    image: ImageInfo,
    model: ModelUsed,
    *,
    uid: str,
    series_uid: str,
    shown: Mapping[str, str] | None = None,
    regions: Mapping[str, Mask] | None = None,
    zone: Flags | None = None,
) -> Dataset:
    """The segmentation of a lesion.

    Args:
        mask: [H, W] uint8 of the source's size; lesion where it is not 0.
        header: Header of the source.
        image: The source.
        model: The model that segmented.
        uid: Its SOP Instance UID.
        series_uid: Its Series Instance UID.
        shown: What the model was shown, by the names of record parameters; none if nothing.
        regions: Masks of dermoscopic features by their terms, likewise. An empty mask makes no segment, and at
            least one segment is required.
        zone: [H, W], where the lesion ends according to a border map: the last segment, unless it is empty.
    """
    drawn = [(SKIN_LESION, mask), *(regions or {}).items()]
    drawn = [(what, one) for what, one in drawn if one.any()]
    described = [
        _segment(header, image, model, shown or {})
        if what == SKIN_LESION
        else _region(number, what, header, image)
        for number, (what, _) in enumerate(drawn, 1)
    ]
    planes = [(one > 0).astype(np.uint8) for _, one in drawn]
    placed = "FrameOfReferenceUID" in header
    source = nameless(header)
    source.SOPClassUID = SecondaryCaptureImageStorage  # one frame, whatever class it comes from
    if placed:
        del source.FrameOfReferenceUID
    if zone is not None and zone.any():
        planes.append(zone.astype(np.uint8))
        described.append(_zone(len(planes), header, image, described[0]))
    made = hd.seg.Segmentation(
        source_images=[source],
        pixel_array=planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)[None],
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=series_uid,
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid,
        instance_number=header.InstanceNumber,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=__version__,
        device_serial_number=model.sha256[:16],
        content_description="Lesion mask by software; not for diagnosis on its own",
        content_label="LESION",
        transfer_syntax_uid=SYNTAX,
        pixel_measures=_measures(image.pixel_spacing_mm) if image.pixel_spacing_mm else None,
    )
    _refer(made, header, image.frame)
    _say_of_frame(made)
    made.PatientOrientation = ""  # General Image requires it (type 2C) if nothing says how the image is placed
    if placed:
        # Most photographs have a frame of reference and no position in it, so highdicom must not look for one.
        made.FrameOfReferenceUID = header.FrameOfReferenceUID
        made.PositionReferenceIndicator = ""
        _place(made, header)
    organization = uid_of("dimensions", uid)
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    return made


def tracking_uid(header: Dataset, image: ImageInfo) -> str:
    """The UID of the lesion, the same in segmentation and report, whichever model drew it."""
    return uid_of("lesion", header.SOPInstanceUID, str(image.frame or 1))


def _refer(made: Dataset, header: Dataset, frame: int | None) -> None:
    """Name the source by its own SOP Class wherever it is referenced, with the frame that the mask belongs to."""
    for element in made.iterall():
        if element.keyword == "ReferencedSOPClassUID":
            element.value = header.SOPClassUID  # a segmentation refers to nothing but its source
        elif element.keyword == "SourceImageSequence" and frame is not None:
            for item in element.value:
                item.ReferencedFrameNumber = frame


def _say_of_frame(made: Dataset) -> None:
    """Repeat for the frame what highdicom says once for all, since some viewers look only there."""
    (shared,), frames = made.SharedFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence
    if "SegmentIdentificationSequence" in shared:
        for frame in frames:
            frame["SegmentIdentificationSequence"] = shared["SegmentIdentificationSequence"]
        del shared.SegmentIdentificationSequence


def _place(made: Dataset, header: Dataset) -> None:
    """Where the plane lies in the frame of reference: as the source says, else in the picture's own plane.

    Viewers align mask and image by their planes, and assume that an image without one lies there.
    """
    orientation = header.get("ImageOrientationPatient", _OWN_PLANE)
    position = header.get("ImagePositionPatient", _OWN_CORNER)
    (shared,), frames = made.SharedFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence
    shared.PlaneOrientationSequence = hd.PlaneOrientationSequence("PATIENT", orientation)
    for frame in frames:
        frame.PlanePositionSequence = hd.PlanePositionSequence("PATIENT", position)


def _measures(spacing_mm: tuple[float, float]) -> hd.PixelMeasuresSequence:
    """Pixel spacing, and a pixel's width as thickness: a photograph has none, but readers ask for one."""
    return hd.PixelMeasuresSequence(spacing_mm, slice_thickness=sum(spacing_mm) / 2)


def _segment(header: Dataset, image: ImageInfo, model: ModelUsed, shown: Mapping[str, str]) -> SegmentDescription:
    return SegmentDescription(
        segment_number=1,
        segment_label="Lesion",
        segmented_property_category=codes.ABNORMAL,
        segmented_property_type=codes.SKIN_LESION,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=model.name,
            family=codes.ARTIFICIAL_INTELLIGENCE,
            version=model.version,
            source=MANUFACTURER,
            parameters={"sha256": model.sha256, **shown},
        ),
        tracking_uid=tracking_uid(header, image),
        tracking_id=SKIN_LESION,
        anatomic_regions=[codes.SKIN],
        display_color=_COLOUR,
    )


def _zone(number: int, header: Dataset, image: ImageInfo, lesion: SegmentDescription) -> SegmentDescription:
    """The zone in which the lesion ends, by the same algorithm."""
    return SegmentDescription(
        segment_number=number,
        segment_label="Border zone",
        segmented_property_category=codes.ABNORMAL,
        segmented_property_type=codes.BORDER_ZONE,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=lesion.algorithm_identification,
        tracking_uid=uid_of("border", header.SOPInstanceUID, str(image.frame or 1)),
        tracking_id="border zone",
        anatomic_regions=[codes.SKIN],
        display_color=_ZONE_COLOUR,
    )


def _region(number: int, term: str, header: Dataset, image: ImageInfo) -> SegmentDescription:
    """A segment of a feature, which is always drawn by hand."""
    feature = codes.feature(term)
    return SegmentDescription(
        segment_number=number,
        segment_label=feature.meaning,
        segmented_property_category=codes.ABNORMAL,
        segmented_property_type=feature,
        algorithm_type=SegmentAlgorithmTypeValues.MANUAL,
        tracking_uid=uid_of("feature", header.SOPInstanceUID, str(image.frame or 1), term),
        tracking_id=term,
        anatomic_regions=[codes.SKIN],
    )
