"""The enhanced lesion as a Secondary Capture (PS3.3, A.8.1), marked as derived."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.valuerep import DS

from dermbatch.handover.dicom.stamp import SYNTAX
from dermbatch.records import codes
from dermbatch.records.marks import MANUFACTURER
from dermbatch.records.outcome import EnhanceOutput, ImageInfo, StageRecord

SERIES_NUMBER = 9003

_LOSS = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_CARRIED = ("BurnedInAnnotation", "RecognizableVisualFeatures", *_LOSS)


def picture(
    pixels: NDArray[np.uint8],
    header: Dataset,
    image: ImageInfo,
    record: StageRecord,
    *,
    purified: bool,
    uid: str,
    series_uid: str,
) -> Dataset:
    """The enhanced lesion.

    What the source says about burned-in text and recognizable features also holds for a part of it, so it is
    copied; if the source says nothing, nothing is claimed.

    Args:
        pixels: [h, w, 3] uint8 RGB.
        header: Header of the source.
        image: The source.
        record: How it was enhanced.
        purified: Whether hair, rulers and ink were painted over first.
        uid: Its SOP Instance UID.
        series_uid: Its Series Instance UID.
    """
    assert isinstance(record.output, EnhanceOutput)  # noqa: S101 - the stage says so
    made = SCImage(
        pixel_array=np.ascontiguousarray(pixels),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # highdicom requires it; it is not known, so it is emptied below
        study_instance_uid=header.StudyInstanceUID,
        series_instance_uid=series_uid,
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid,
        instance_number=header.InstanceNumber,
        manufacturer=MANUFACTURER,
        transfer_syntax_uid=SYNTAX,
    )
    for keyword in ("PatientOrientation", "Laterality"):
        setattr(made, keyword, "")
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.ConversionType = "WSD"
    made.Modality = "OT"
    for keyword in _CARRIED:
        if keyword in header:
            made[keyword] = header[keyword]
    _say_spacing(made, image, record.output.scale or 1.0)
    made.ImageComments = codes.NOT_ALONE
    made.DerivationDescription = _description(record, record.output, purified=purified)
    if record.output.method in ("super_resolution", "resampled"):
        made.DerivationCodeSequence = [_coded(codes.RESAMPLING)]
    made.SourceImageSequence = [_reference(header, image.frame)]
    return made


def _say_spacing(made: Dataset, image: ImageInfo, scale: float) -> None:
    if image.pixel_aspect is not None:
        ratio = Fraction(image.pixel_aspect).limit_denominator(1000)
        made.PixelAspectRatio = [ratio.numerator, ratio.denominator]
    if image.pixel_spacing_mm is None:
        return
    spacing = [DS(mm / scale, auto_format=True) for mm in image.pixel_spacing_mm]
    if image.notes and {"spacing_nominal", "spacing_imager"} & set(image.notes):
        made.NominalScannedPixelSpacing = spacing
    else:
        made.PixelSpacing = spacing


def _description(record: StageRecord, output: EnhanceOutput, *, purified: bool) -> str:
    """What was done, in a sentence; up to 1,024 characters."""
    match output.method:
        case "super_resolution":
            how = f"enlarged {output.scale or 1:.2f} times by model {record.model.name} {record.model.version}; "
            how += "its detail is estimated: measure on the original"
        case "resampled":
            how = f"enlarged {output.scale or 1:.2f} times by bicubic interpolation"
        case _:
            how = "at its own resolution"
    first = "; hair, rulers and ink were painted over before" if purified else ""
    return f"The lesion cut out of the source image, {how}{first}. {codes.NOT_ALONE}"


def _reference(header: Dataset, frame: int | None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if frame is not None:
        item.ReferencedFrameNumber = frame
    item.PurposeOfReferenceCodeSequence = [_coded(codes.PROCESSED_FROM)]
    item.SpatialLocationsPreserved = "NO"
    return item


def _coded(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme_designator, code.meaning)
