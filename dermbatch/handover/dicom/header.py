"""The header of a source image: read tolerantly, passed on strictly.

Objects of one Study must say the same about patient and study as the source does (PS3.3, C.7.1.1 and C.7.2.1), so
these
values are copied. What the standard does not allow (a sex of ``female``, the 30th of February, an Accession
Number of 20 characters) is left empty, since an object that a PACS refuses helps nobody; dates and times are
written as the standard requires. UIDs stay those under which the PACS knows the source, if they can be written at
all. :func:`changes` lists what differs from the source.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from copy import deepcopy
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_description
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import SecondaryCaptureImageStorage

from dermbatch.images.dicom.moments import date_of, time_of
from dermbatch.images.quiet import quiet
from dermbatch.records.outcome import ImageInfo
from dermbatch.records.uids import uid_of

UNKNOWN_DATE, UNKNOWN_TIME = "19000101", "000000"
"""Used if the source has no date at all: Content Date and Time may not be empty (PS3.3, C.8.20.2)."""

_AGE = re.compile(r"\d{3}[DWMY]")
_NUMBER = re.compile(r"\d{1,9}")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f\\]+")
_LOSSY = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91"}
_PLANE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6}
_SQUARE = 1e-3
_METHODS = {"91": "ISO_15444_1", "81": "ISO_14495_1"}

Clean = Callable[[str], str]


def _fitting(pattern: re.Pattern[str]) -> Clean:
    return lambda text: text if pattern.fullmatch(text) else ""


def _one_of(*allowed: str) -> Clean:
    return lambda text: text.upper() if text.upper() in allowed else ""


def _up_to(length: int) -> Clean:
    return lambda text: _CONTROLS.sub(" ", text)[:length].strip()


def _whole(length: int) -> Clean:
    """For identifiers: a truncated one would be a different one."""
    return lambda text: cleaned if len(cleaned := _CONTROLS.sub(" ", text).strip()) <= length else ""


def _person(text: str) -> str:
    return "=".join(_up_to(64)(group) for group in text.split("=")[:3])


_ALWAYS: dict[str, Clean] = {
    "PatientName": _person,
    "PatientID": _whole(64),
    "PatientBirthDate": date_of,
    "PatientSex": _one_of("M", "F", "O"),
    "StudyDate": date_of,
    "StudyTime": time_of,
    "StudyID": _whole(16),
    "AccessionNumber": _whole(16),
    "ReferringPhysicianName": _person,
}
"""Attributes of patient and study that every object has, empty if the source lacks them (type 2)."""

_IF_SAID: dict[str, Clean] = {
    "IssuerOfPatientID": _whole(64),
    "PatientAge": _fitting(_AGE),
    "StudyDescription": _up_to(64),
    "BurnedInAnnotation": _one_of("YES", "NO"),
    "RecognizableVisualFeatures": _one_of("YES", "NO"),
}
_TEXTS = ("PatientName", "PatientID", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription")
"""The attributes in which an undeclared character set is looked for."""
PATIENT_AND_STUDY = (*_ALWAYS, "IssuerOfPatientID", "PatientAge", "StudyDescription", "StudyInstanceUID")
"""The attributes that are copied into every object."""


def source_header(data: bytes, image: ImageInfo) -> Dataset:
    """What the objects need to know of their source, in values that the standard allows.

    Args:
        data: The source file, with or without preamble; it has been decoded, so it is a DICOM image.
        image: What decoding found.

    Returns:
        Patient, study and UIDs; Content Date and Time; Rows and Columns as decoded; Lossy Image Compression (with
        ratio and method) where the source lost something; Frame of Reference UID if there is one. No pixels.
    """
    with quiet():
        found = _found(data)
        header = Dataset()
        for keyword, clean in _ALWAYS.items():
            setattr(header, keyword, clean(_text(found, keyword)))
        for keyword, clean in _IF_SAID.items():
            if value := clean(_text(found, keyword)):
                setattr(header, keyword, value)
        _identify(header, found, image)
        _date(header, found)
        _note_loss(header, found, image)
    header.Rows, header.Columns = image.height, image.width
    return header


def changes(data: bytes) -> tuple[str, ...]:
    """How the objects must differ from what the source says.

    Args:
        data: The source file.

    Returns:
        ``left_out_<element>``, ``rewritten_<element>`` and, of UIDs, ``replaced_<element>``; elements in lower
        case with underscores.
    """
    made = []
    with quiet():
        found = _found(data)
        foreign = _foreign(found).items()
        garbled = {keyword for keyword, raw in foreign if not (_is_declared(found, raw) or _is_utf8(raw))}
        for keyword, clean in (*_ALWAYS.items(), *_IF_SAID.items()):
            value = _text(found, keyword).strip()
            kept = clean(value)
            if value and (kept != value or keyword in garbled):
                made.append(f"{'rewritten' if kept else 'left_out'}_{_named(keyword)}")
        for keyword in ("StudyInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            value = _text(found, keyword).strip(" \"'\0\t\r\n")
            if value and valid_uid(value) != value:
                made.append(f"replaced_{_named(keyword)}")
    return tuple(made)


def _named(keyword: str) -> str:
    return dictionary_description(keyword).lower().replace("'", "").replace(" ", "_")


def _found(data: bytes) -> Dataset:
    """The source's header, read as UTF-8 if its text is that and not in the declared character set.

    Without a declaration Latin-1 is assumed, which hardly ever looks like UTF-8.
    """
    found = dcmread(BytesIO(data), force=True, stop_before_pixels=True)
    texts = _foreign(found).values()
    declared = found.get("SpecificCharacterSet") and all(_is_declared(found, raw) for raw in texts)
    if texts and not declared and all(map(_is_utf8, texts)):
        implicit, little = found.original_encoding
        found.set_original_encoding(implicit, little, "utf8")
    return found


def _foreign(found: Dataset) -> dict[str, bytes]:
    """The raw texts of the file that are not pure ASCII, before pydicom first decodes them."""
    raw = {keyword: getattr(found.get_item(keyword), "value", None) for keyword in _TEXTS if keyword in found}
    return {keyword: one for keyword, one in raw.items() if isinstance(one, bytes) and not one.isascii()}


def _is_declared(found: Dataset, raw: bytes) -> bool:
    """Whether a text can be read in the character set that a data set declares (PS3.3, C.12.1.1.2)."""
    declared = found.get("SpecificCharacterSet")
    first = str(declared[0] if isinstance(declared, (list, MultiValue)) and declared else declared or "").strip(
        " \"'"
    )
    if (
        b"\x1b" in raw or not declared
    ):  # escape sequences that switch the set are followed; without a declaration, Latin-1 is assumed
        return True
    encoding = python_encoding.get(first) if first else "ascii"
    try:
        raw.decode(encoding or "ascii")
    except UnicodeDecodeError:
        return False
    except LookupError:  # one of pydicom's own
        return True
    return True


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def nameless(header: Dataset) -> Dataset:
    """A copy for highdicom, which warns of names without ``^``; the names themselves are stamped on afterwards."""
    copied = deepcopy(header)
    copied.PatientName = copied.ReferringPhysicianName = ""
    return copied


def _identify(header: Dataset, found: Dataset, image: ImageInfo) -> None:
    meta = found.file_meta
    sop_class = _text(found, "SOPClassUID") or _text(meta, "MediaStorageSOPClassUID")
    instance = _text(found, "SOPInstanceUID") or _text(meta, "MediaStorageSOPInstanceUID")
    header.SOPClassUID = valid_uid(sop_class) if sop_class.strip(" \"'") else SecondaryCaptureImageStorage
    header.SOPInstanceUID = valid_uid(instance, "instance", image.sha256)
    header.SeriesInstanceUID = valid_uid(_text(found, "SeriesInstanceUID"), "series", image.sha256)
    header.StudyInstanceUID = valid_uid(_text(found, "StudyInstanceUID"), "study", image.sha256)
    if frame := _text(found, "FrameOfReferenceUID").strip(" \"'"):
        header.FrameOfReferenceUID = valid_uid(frame)
        _place(header, found)
    number = _text(found, "InstanceNumber").strip(" \"'")
    position = int(number) if _NUMBER.fullmatch(number) and int(number) > 0 else 1
    header.InstanceNumber = image.frame or position


def _place(header: Dataset, found: Dataset) -> None:
    """Where the image lies in its frame of reference (PS3.3, C.7.6.2), if it says so in numbers."""
    plane = {keyword: _numbers(_text(found, keyword)) for keyword in _PLANE}
    if all(len(plane[keyword]) == length for keyword, length in _PLANE.items()) and _is_plane(
        plane["ImageOrientationPatient"]
    ):
        for keyword, numbers in plane.items():
            setattr(header, keyword, numbers)


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split("\\")]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def _is_plane(cosines: list[float]) -> bool:
    """Whether they are two directions of length 1 at right angles."""
    row, column = cosines[:3], cosines[3:]
    crossed = sum(map(operator.mul, row, column))
    return all(abs(math.hypot(*one) - 1) < _SQUARE for one in (row, column)) and abs(crossed) < _SQUARE


def _date(header: Dataset, found: Dataset) -> None:
    """Content Date and Time of the objects: the source's own, so that a repeat gives the same."""
    for day, time in (("ContentDate", "ContentTime"), ("AcquisitionDate", "AcquisitionTime")):
        if date := date_of(_text(found, day)):
            header.ContentDate = date
            header.ContentTime = time_of(_text(found, time)) or UNKNOWN_TIME
            return
    header.ContentDate = header.StudyDate or UNKNOWN_DATE
    header.ContentTime = (header.StudyDate and header.StudyTime) or UNKNOWN_TIME


def _note_loss(header: Dataset, found: Dataset, image: ImageInfo) -> None:
    """Once lossy, always lossy (PS3.3, C.7.6.1.1.5); the ratio is that of the file if the source states none."""
    syntax = _text(found.file_meta, "TransferSyntaxUID")
    if _text(found, "LossyImageCompression") != "01" and syntax not in _LOSSY:
        return
    header.LossyImageCompression = "01"
    frames = _text(found, "NumberOfFrames")
    samples = 3 * image.height * image.width * (int(frames) if _NUMBER.fullmatch(frames) else 1)
    ratio = samples / max(1, image.bytes)
    header.LossyImageCompressionRatio = f"{max(1.0, ratio):.2f}"
    header.LossyImageCompressionMethod = _METHODS.get(syntax[-2:], "ISO_10918_1")


def _text(dataset: Dataset, keyword: str) -> str:
    """A value as text; '' if there is none that can be read."""
    try:
        value: Any = dataset.get(keyword)
        if isinstance(value, MultiValue):
            value = "\\".join(map(str, value))
        return "" if value is None else str(value).strip(" \0")
    except Exception:  # a foreign value that cannot be converted counts as missing
        return ""


_WRITABLE = re.compile(r"\d+(\.\d+)+", re.ASCII)
_LONGEST = 64


def valid_uid(uid: str, *otherwise: str) -> str:
    """A UID that can be written (PS3.5, section 6.2: UI), whatever an exporter wrote.

    A component with a leading zero is not allowed by section 9.1, but the PACS knows the Study by that UID.

    Args:
        uid: The value as found; quotation marks and padding around it are removed.
        otherwise: What the UID is made from if none is stated. A malformed value is used itself for this, so that
            two images of one study stay in one study.
    """
    plain = uid.strip(" \"'\0\t\r\n")
    if len(plain) <= _LONGEST and _WRITABLE.fullmatch(plain):
        return plain
    return uid_of("malformed", plain) if plain else uid_of("missing", *otherwise)
