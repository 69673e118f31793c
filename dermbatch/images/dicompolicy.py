"""Which DICOM files are photographs of skin, by what their headers say.

SOP class, modality, body part and depth are looked at; each may be missing, quoted or malformed. No message quotes
a header.
"""

from __future__ import annotations

import logging

from pydicom import config as pydicom_config
from pydicom.dataset import Dataset

from dermbatch.errors import BadInput

# pydicom checks every value against its VR and warns with the value in the text: useless here, and it may name a
# patient. What matters is checked below.
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
"""Media Storage Directory Storage: a DICOMDIR."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."
SECONDARY_CAPTURES = frozenset(
    {
        f"{_STORAGE}7",  # Secondary Capture Image
        f"{_STORAGE}7.4",  # Multi-frame True Color Secondary Capture Image
    }
)
SKIN_CLASSES = SECONDARY_CAPTURES | {
    f"{_STORAGE}77.1.4",  # VL Photographic Image
    f"{_STORAGE}77.1.7",  # Dermoscopic Photography Image
}
"""SOP classes that can hold a picture of skin. Microscopy and endoscopy do not show the surface of skin."""
SKIN_MODALITIES = frozenset({"", "XC", "DMS", "OT", "SC", "GM"})
"""Modalities of such pictures; a secondary capture of a CT study says CT."""

_NO_PICTURES = {
    "88.59": "a key object selection",
    "88": "a structured report",
    "11": "a presentation state",
    "104": "an encapsulated document",
    "9": "a waveform",
    "66.1": "a spatial registration",
    "66": "raw data",
    "481.3": "a radiotherapy structure set",
    "481.5": "a radiotherapy plan",
    "38": "a hanging protocol",
}
"""Kinds of objects without a picture, by the beginning of their SOP class below ``1.2.840.10008.5.1.4.1.1``."""
_PICTURES = frozenset({"66.4", "66.5"})
"""Segmentations are among them; they have pixels, but not those of a photograph."""

# fmt: off
_INSIDE = frozenset({
    "AORTA", "BLADDER", "BRAIN", "BRONCHUS", "CAROTID", "COLON", "CSPINE", "CTSPINE", "DUODENUM", "ESOPHAGUS",
    "GALLBLADDER", "HEART", "ILEUM", "JEJUNUM", "KIDNEY", "LARYNX", "LIVER", "LSPINE", "LSSPINE", "LUNG",
    "OVARY", "PANCREAS", "PROSTATE", "RECTUM", "RETINA", "SELLA", "SKULL", "SPINE", "SPLEEN", "SSPINE",
    "STOMACH", "TLSPINE", "TRACHEA", "TSPINE", "UTERUS",
})
# fmt: on
"""Body parts (defined terms of PS3.16 Annex L) inside the body: a picture of one does not show skin."""


def check_is_skin(dataset: Dataset) -> None:
    """Refuse anything but photographs of skin.

    Raises:
        BadInput: ``not_a_skin_image``, or ``no_pixel_data`` for kinds of objects that have no picture.
    """
    sop_class = text(dataset, "SOPClassUID") or text(dataset.file_meta, "MediaStorageSOPClassUID")
    if sop_class == DIRECTORY_CLASS:
        raise BadInput("a DICOMDIR holds no pixel data; give the files that it names", reason="no_pixel_data")
    if kind := _without_picture(sop_class):
        raise BadInput(
            f"the DICOM file is {kind} by its SOP class and holds no picture; give image files",
            reason="no_pixel_data",
        )
    if sop_class and sop_class not in SKIN_CLASSES:
        raise _no_skin(
            "by its SOP class; give VL Photographic, Dermoscopic Photography or Secondary Capture images"
        )
    if text(dataset, "Modality").upper() not in SKIN_MODALITIES:
        raise _no_skin("by its modality; give images of modality XC, DMS, OT, SC or GM")
    if text(dataset, "BodyPartExamined").upper() in _INSIDE:
        raise _no_skin("by its body part, which is inside the body")
    grey = text(dataset, "PhotometricInterpretation").startswith("MONOCHROME")
    if grey and number(dataset, "BitsStored", 8) > 8 and sop_class in SECONDARY_CAPTURES:
        raise _no_skin("by its photometric interpretation: grey of more than 8 bits is radiology")


def _without_picture(sop_class: str) -> str | None:
    below = sop_class.removeprefix(_STORAGE)
    if below == sop_class or below in _PICTURES:
        return None
    return next((kind for start, kind in _NO_PICTURES.items() if f"{below}.".startswith(f"{start}.")), None)


def _no_skin(why: str) -> BadInput:
    return BadInput(f"the DICOM file is not a photograph of skin {why}", reason="not_a_skin_image")


def text(dataset: Dataset, keyword: str) -> str:
    """A value as text, without the quotation marks and padding that some exporters add; '' for none."""
    try:
        value = dataset.get(keyword)
    except Exception:  # a value that cannot be converted: as if it were not there
        return ""
    return "" if value is None else str(value).strip(" \"'\0")


def number(dataset: Dataset, keyword: str, default: int) -> int:
    """A value as an integer; the default if it is missing or not a number."""
    try:
        return int(text(dataset, keyword) or default)
    except ValueError:
        return default
