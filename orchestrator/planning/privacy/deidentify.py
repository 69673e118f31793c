"""De-identification of one file: bytes in, bytes without identity out.

DICOM files: Basic Application Level Confidentiality Profile of PS3.15 Annex E, with the options that a profile
names. The data set is rebuilt from the attributes that may stay (``attributes.py``); the coded pixels stay.
Other files: their pixels, as PNG, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from io import BytesIO
from typing import Any

import cv2
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes, RLELossless

from dermbatch import __version__
from dermbatch.bounded.limits import out_of_memory
from dermbatch.errors import BadInput
from dermbatch.images.damage import check_is_binary
from dermbatch.images.dicom.agreement import settle
from dermbatch.images.dicom.header import element
from dermbatch.images.dicom.moments import date_of, time_of
from dermbatch.images.dicom.native import settle_samples
from dermbatch.images.dicom.palette import without_segments
from dermbatch.images.dicom.proportions import decimals
from dermbatch.images.dicom.reading import parse, truncated
from dermbatch.images.dicomfile import check_has_pixels
from dermbatch.images.dicompolicy import SECONDARY_CAPTURES, check_is_skin, text
from dermbatch.images.imagefile import DICOM, read_image, sniff
from dermbatch.images.quiet import quiet
from orchestrator.planning.privacy import attributes
from orchestrator.planning.privacy.coded import plain_profile, without_comments
from orchestrator.planning.privacy.kept_codes import code, standard_code
from orchestrator.planning.privacy.profile import Profile
from orchestrator.planning.privacy.pseudonyms import Pseudonyms
from orchestrator.planning.privacy.surroundings import leave_pixels_only
from orchestrator.planning.privacy.tails import without_tails

_METHOD = f"PS3.15 Basic Profile; dermbatch {__version__}"
_BASIC = ("113100", "Basic Application Confidentiality Profile")
_OPTIONS = {
    ("dates", "keep"): ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    ("dates", "shift"): ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("uids", "keep"): ("113110", "Retain UIDs Option"),
}
"""Codes of CID 7050 (PS3.16) by what a profile says."""
_TEMPORAL = {"remove": "REMOVED", "shift": "MODIFIED", "keep": "UNMODIFIED"}

_STANDARD = "1.2.840.10008."
_UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)")
_DATE_TIME = re.compile(r"(\d{8})((?:[01]\d|2[0-3])(?:[0-5]\d(?:[0-5]\d(?:\.\d{1,6})?)?)?)?([+-]\d{4})?")
_ORIENTATION = re.compile(r"[APRLHF]{0,3}")
_WITH_COMMENTS = {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes}


@dataclass(frozen=True)
class Original:
    """Whose file it was and what it was called; only for the sealed table."""

    patient: str = ""
    issuer: str = ""
    uids: dict[str, str] = field(default_factory=dict)
    days: int = 0


@dataclass(frozen=True)
class Deidentified:
    """A file without identity.

    Attributes:
        data: Its bytes.
        patient: The patient's pseudonym; none for files other than DICOM, which do not say whose they are.
        suffix: ``.dcm`` or ``.png``.
        media_type: Of ``data``.
        may_have_text: Whether the header says that there is text in the picture, or leaves it open for a kind that
            often has some.
        original: What it was.
    """

    data: bytes
    patient: str | None
    suffix: str
    media_type: str
    may_have_text: bool
    original: Original


def deidentify(data: bytes, profile: Profile, pseudonyms: Pseudonyms, *, max_pixels: int) -> Deidentified:
    """Remove the identity from a file.

    Args:
        data: The whole file: DICOM, JPEG, PNG, TIFF, BMP or WebP.
        profile: What goes and what stays.
        pseudonyms: Names for what is removed.
        max_pixels: Larger images are refused because of their header.

    Raises:
        BadInput: As for :func:`dermbatch.images.imagefile.read_image`, ``burned_in_text``, or ``not_deidentified``
            if a DICOM file cannot be written without what must be removed.
    """
    if sniff(data[:256]) != DICOM:
        return _picture(data, max_pixels)
    check_is_binary(data)
    with quiet():
        try:
            return _Taking(parse(data), data, profile, pseudonyms).done()
        except BadInput:
            raise
        except MemoryError:
            raise out_of_memory() from None
        except EOFError:
            raise truncated() from None
        except Exception:  # readers and writers fail on untrusted files in every possible way
            # Without the cause: its text may quote the header.
            raise BadInput(
                "the DICOM data set is damaged and cannot be parsed, so it cannot be de-identified; export it "
                "again",
                reason="not_deidentified",
            ) from None


def _picture(data: bytes, max_pixels: int) -> Deidentified:
    """The pixels of an image file, upright and in sRGB, as the stages would have seen them."""
    pixels = read_image(data, max_pixels=max_pixels).pixels
    done, png = cv2.imencode(".png", pixels[..., ::-1], (cv2.IMWRITE_PNG_COMPRESSION, 1))
    if not done:
        raise BadInput("the image cannot be written as PNG; it is too large", reason="too_large")
    return Deidentified(png.tobytes(), None, ".png", "image/png", False, Original())


class _Taking:
    """One DICOM file being de-identified."""

    def __init__(self, dataset: Dataset, data: bytes, profile: Profile, pseudonyms: Pseudonyms) -> None:
        self._dataset, self._profile, self._pseudonyms = dataset, profile, pseudonyms
        self._uids: dict[str, str] = {}
        self._size = len(data)
        issuer, identifier = text(dataset, "IssuerOfPatientID"), text(dataset, "PatientID")
        # Without a patient ID, at least the images of one study count as one patient.
        whose = identifier or text(dataset, "StudyInstanceUID") or pseudonyms.content(data)
        self._patient = pseudonyms.patient(issuer if identifier else "", whose)
        self._days = pseudonyms.days(self._patient) if profile.dates == "shift" else 0
        self._original = (identifier, issuer)
        self._instance = pseudonyms.uid(pseudonyms.content(data))

    def done(self) -> Deidentified:
        """The de-identified file.

        Raises:
            BadInput: If it is refused.
        """
        dataset = self._dataset
        check_is_skin(dataset)
        check_has_pixels(dataset, self._size)
        declared = text(dataset, "BurnedInAnnotation").upper()
        sop_class = text(dataset, "SOPClassUID") or text(dataset.file_meta, "MediaStorageSOPClassUID")
        # A word that the standard does not have does not count as NO.
        may_have_text = declared != "NO" and (bool(declared) or sop_class in SECONDARY_CAPTURES)
        if may_have_text and self._profile.burned_in_text == "refuse":
            raise BadInput(
                f"there may be text in the picture, according to {element('BurnedInAnnotation')}; the profile "
                f"refuses such images",
                reason="burned_in_text",
            )
        settle(dataset)
        settle_samples(dataset)
        if text(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
            without_segments(dataset)
        identifier, issuer = self._original
        made = self._written(sop_class)
        original = Original(identifier, issuer, {new: old for old, new in self._uids.items()}, self._days)
        return Deidentified(made, self._patient, ".dcm", DICOM, may_have_text, original)

    def _written(self, sop_class: str) -> bytes:
        syntax = UID(text(self._dataset.file_meta, "TransferSyntaxUID"))
        clean = self._cleaned(self._dataset)
        clean.SpecificCharacterSet = "ISO_IR 192"
        if sop_class:
            clean.SOPClassUID = sop_class
        if "SOPInstanceUID" not in clean:
            clean.SOPInstanceUID = self._instance
        self._note_profile(clean)
        self._add_pixels(clean, syntax)
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = syntax
        meta.MediaStorageSOPClassUID = clean.get("SOPClassUID") or UID("1.2.840.10008.5.1.4.1.1.7")
        meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
        clean.file_meta = meta
        leave_pixels_only(clean, syntax)
        file = BytesIO()
        clean.save_as(file, enforce_file_format=True)
        return file.getvalue()

    def _note_profile(self, clean: Dataset) -> None:
        """Say what was done (PS3.15, E.1.1), and the patient's pseudonym."""
        clean.PatientName = clean.PatientID = self._patient
        for keyword in attributes.EMPTY:
            if keyword not in clean:
                setattr(clean, keyword, None)
        chosen = {"dates": self._profile.dates, "uids": self._profile.uids}
        options = [found for pair, found in _OPTIONS.items() if chosen[pair[0]] == pair[1]]
        clean.PatientIdentityRemoved = "YES"
        clean.DeidentificationMethod = _METHOD
        clean.DeidentificationMethodCodeSequence = [code(*one) for one in (_BASIC, *options)]
        clean.LongitudinalTemporalInformationModified = _TEMPORAL[self._profile.dates]

    def _add_pixels(self, clean: Dataset, syntax: UID) -> None:
        element = self._dataset["PixelData"]
        pixels = bytes(element.value)
        if syntax in _WITH_COMMENTS:
            pixels = without_tails(without_comments(pixels))
        elif not syntax.is_compressed or syntax.is_deflated:
            # What follows the last pixel is not part of the picture.
            expected = get_expected_length(self._dataset)
            if len(pixels) < expected:
                raise EOFError
            pixels = pixels[: expected + expected % 2]
        elif syntax != RLELossless:
            raise BadInput(
                "pixel data of this transfer syntax are not supported; export the image as JPEG, JPEG 2000 or "
                "uncompressed",
                reason="unsupported_transfer_syntax",
            )
        added = DataElement(element.tag, element.VR, pixels)
        added.is_undefined_length = element.is_undefined_length
        clean.add(added)
        profile = self._dataset.get("ICCProfile")
        if isinstance(profile, bytes) and (plain := plain_profile(profile)) is not None:
            clean.ICCProfile = plain + bytes(len(plain) % 2)

    def _cleaned(self, dataset: Dataset) -> Dataset:
        """The part of a data set or sequence item that may stay."""
        clean = Dataset()
        for tag in sorted(dataset.keys()):
            try:
                element = dataset[tag]
                value = self._value(element.keyword, element.value, dataset)
            except Exception:  # noqa: S112 - a value that cannot be read does not stay
                continue
            if value is not None:
                vr = element.VR if element.keyword in attributes.BYTES else dictionary_VR(tag)
                clean.add(DataElement(tag, element.VR if " or " in vr else vr, value))
        return clean

    def _value(self, keyword: str, value: Any, dataset: Dataset) -> Any:
        """The new value of an attribute; none if it is removed."""
        if keyword in attributes.CODED:
            return _all(standard_code(item) for item in value)
        if keyword in attributes.DECIMALS:
            value = MultiValue(str, decimals(dataset, keyword))
        if keyword in attributes.REFERENCES:
            return [self._cleaned(item) for item in value]
        return self._plain(keyword, value)

    def _plain(self, keyword: str, value: Any) -> Any:
        """The same for anything but a sequence."""
        if keyword in attributes.NUMBERS:
            return _numbers(value)
        if keyword in attributes.BYTES:
            palette = text(self._dataset, "PhotometricInterpretation") == "PALETTE COLOR"
            return value if palette and isinstance(value, bytes) else None
        texts = [str(one).strip(" \"'\0") for one in (value if isinstance(value, (list, MultiValue)) else [value])]
        if keyword == "ImageType":
            return [one for one in texts if one in attributes.WORDS[keyword]] or None
        if keyword == "PatientOrientation":
            return texts if len(texts) == 2 and all(map(_ORIENTATION.fullmatch, texts)) else None
        return _all(self._text(keyword, one) for one in texts)

    def _text(self, keyword: str, value: str) -> str | None:
        if keyword in attributes.WORDS:
            return value.upper() if value.upper() in attributes.WORDS[keyword] else None
        if keyword in attributes.DECIMALS:
            return value if attributes.DECIMAL.fullmatch(value) and len(value) <= 16 else None
        if keyword in attributes.CLASSES:
            return value if value.startswith(_STANDARD) and UID(value).name != value else None
        if keyword in attributes.UIDS:
            return self._uid(value)
        return self._when(keyword, value) if self._profile.dates != "remove" else None

    def _uid(self, value: str) -> str | None:
        if not value:
            return None
        if self._profile.uids == "keep" and len(value) <= 64 and _UID.fullmatch(value):
            return value
        return self._uids.setdefault(value, self._pseudonyms.uid(value))

    def _when(self, keyword: str, value: str) -> str | None:
        """A valid date, or date and time, shifted if the profile shifts dates; none if it is invalid."""
        if keyword in attributes.TIMES:
            return time_of(value) or None
        found = _DATE_TIME.fullmatch(date_of(value) or value) if keyword in attributes.DATES else None
        if found is None:
            return None
        year, month, day = map(int, _DATE.fullmatch(found[1]).groups())  # type: ignore[union-attr]
        try:
            moved = date(year, month, day) + timedelta(days=self._days)
        except (ValueError, OverflowError):
            return None
        return f"{moved:%Y%m%d}".rjust(8, "0") + found[0][8:]


def _numbers(value: Any) -> Any:
    several = list(value) if isinstance(value, (list, MultiValue)) else [value]
    return value if all(isinstance(one, int) for one in several) else None


def _all(values: Iterable[Any]) -> list[Any] | None:
    """All of them; none if one is missing, or there are none."""
    found = list(values)
    return found if found and None not in found else None
