"""What all objects have in common: whose they are and what made them; nothing depends on the clock."""

from __future__ import annotations

from datetime import datetime
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dermbatch import __version__
from dermbatch.handover.dicom.header import PATIENT_AND_STUDY
from dermbatch.images.quiet import quiet
from dermbatch.records.marks import MANUFACTURER
from dermbatch.records.outcome import ModelUsed

SYNTAX = ExplicitVRLittleEndian

_OF_THE_CLOCK = (
    "InstanceCreationDate",
    "InstanceCreationTime",
    "SeriesDate",
    "SeriesTime",
    "DateOfSecondaryCapture",
    "TimeOfSecondaryCapture",
)


def stamped(
    made: Dataset, header: Dataset, description: str, model: ModelUsed, *, at: datetime | None = None
) -> bytes:
    """An object as a file, in the Study of its source.

    highdicom fills in the current time; its optional parts are removed and the rest is taken from the source,
    since two objects with one SOP Instance UID must be identical.

    Args:
        made: The object.
        header: From :func:`dermbatch.handover.dicom.header.source_header`.
        description: Description of the series, up to 64 characters.
        model: What made it.
        at: When its content was made, if not at the time of the source's.
    """
    for keyword in _OF_THE_CLOCK:
        if keyword in made:
            delattr(made, keyword)
    for equipment in made.get("ContributingEquipmentSequence", []):
        equipment.pop("ContributionDateTime", None)
    made.SpecificCharacterSet = "ISO_IR 192"
    for keyword in PATIENT_AND_STUDY:
        if keyword in header:
            made[keyword] = header[keyword]
    made.ContentDate, made.ContentTime = header.ContentDate, header.ContentTime
    if at is not None:
        made.ContentDate, made.ContentTime = f"{at:%Y%m%d}", f"{at:%H%M%S.%f}"
    made.SeriesDescription = description
    made.Manufacturer = made.ManufacturerModelName = MANUFACTURER
    made.DeviceSerialNumber = model.sha256[:16]
    made.SoftwareVersions = [__version__, f"{model.name} {model.version}"[:64]]
    file = BytesIO()
    with quiet():
        made.save_as(file, enforce_file_format=True)
    return file.getvalue()
