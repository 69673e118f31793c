"""Sentinels: words that stand for a patient's name, ids and dates, planted wherever they fit, and looked for."""

import base64
import contextlib
import gzip
import io
import re
import tarfile
import warnings
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom import dcmread
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

WORD = "ZQXSENTINEL"
"""Part of every name and id."""
DAY = "19371103"
DIGITS = "90817263544"
"""Part of every UID."""
_TEXTS = {
    **dict.fromkeys(("AE", "LO", "LT", "SH", "ST", "UC", "UT", "CS"), WORD),
    "PN": f"{WORD}^Zoe",
    "UR": f"http://{WORD}.example",
    "DA": DAY,
    "DT": f"{DAY}112233",
    "AS": "077Y",
    "UI": f"1.2.826.0.1.3680043.9.9999.{DIGITS}",
    "OB": WORD.encode() + b" ",
    "UN": WORD.encode() + b" ",
}
"""A value of each kind of attribute that can tell who somebody is."""
KEPT = {
    "SOPClassUID",
    "Modality",
    "BodyPartExamined",
    "PhotometricInterpretation",
    "BurnedInAnnotation",
    "PixelData",
}
"""Attributes by which it is an image of skin at all."""


def planted(data: bytes, **changes: str) -> bytes:
    """A DICOM file with a sentinel in every attribute of the standard that can hold one, and in private ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(BytesIO(data))
        for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
            group = tag >> 16
            if (
                vr in _TEXTS
                and keyword not in KEPT
                and 0x0008 <= group < 0x7FE0
                and keyword != "SpecificCharacterSet"
            ):
                dataset.add(DataElement(tag, vr, _TEXTS[vr]))
        item = Dataset()
        item.PatientName, item.StudyDate, item.OtherPatientIDs = f"{WORD}^Nested", DAY, WORD
        dataset.RequestAttributesSequence = Sequence([item])
        dataset.private_block(0x0019, WORD, create=True).add_new(0x01, "UT", WORD)
        dataset.StudyTime = dataset.ContentTime = "112233"
        dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.9.9999.{DIGITS}.7"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta.SourceApplicationEntityTitle = WORD
        dataset.file_meta.PrivateInformationCreatorUID = f"1.2.3.{DIGITS}"
        dataset.file_meta.PrivateInformation = WORD.encode() + b" "
        dataset.preamble = WORD.encode().ljust(128, b"\0")
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        file = BytesIO()
        dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def picture(pixels, kind: str) -> bytes:
    """An image file with sentinels in its EXIF, comments, text and colour profile."""
    image, file = Image.fromarray(pixels), BytesIO()
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = exif[0x8298] = WORD  # description, artist, copyright
    exif[0x9286] = b"UNICODE\0" + WORD.encode("utf-16-le")
    exif[0x0132] = f"{DAY[:4]}:{DAY[4:6]}:{DAY[6:]} 11:22:33"
    if kind == "PNG":
        info = PngInfo()
        info.add_text("Patient", WORD)
        info.add_text("Comment", WORD * 50, zip=True)
        info.add_itxt("XML:com.adobe.xmp", f"<x>{WORD}</x>")
        image.save(file, "PNG", pnginfo=info, exif=exif)
    else:
        image.save(file, "JPEG", quality=92, exif=exif, comment=WORD, xmp=f"<x>{WORD}</x>".encode())
    return file.getvalue()


_TOKENS = [WORD, f"{DAY[:4]}-{DAY[4:6]}-{DAY[6:]}", f"{DAY[:4]}:{DAY[4:6]}:{DAY[6:]}", DAY, DIGITS]
_WORDS = [spelt for token in _TOKENS for spelt in (token, token.lower(), token.capitalize())]
_FORMS = {form for word in _WORDS for form in (word.encode(), word.encode("utf-16-le"), word.encode("utf-16-be"))}
_FOUND = re.compile(b"|".join(map(re.escape, _FORMS)))
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{16,}={0,2}")
_DEFLATED = re.compile(rb"\x78[\x01\x5e\x9c\xda]")
_DEEPEST = 4


def found_in(data: bytes, depth: int = 0) -> bool:
    """Whether a sentinel is in these bytes: as they are, packed, as Base64, or in an object's text."""
    if _FOUND.search(data):
        return True
    return depth < _DEEPEST and any(found_in(inner, depth + 1) for inner in _inside(data))


def _inside(data: bytes):
    """What is packed in these bytes."""
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(BytesIO(data)) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    elif data[:2] == b"\x1f\x8b":
        # What looks like Base64 and is none, a digest say, may begin like this by chance.
        with contextlib.suppress(gzip.BadGzipFile, EOFError, zlib.error):
            yield gzip.decompress(data)
    elif data[257:262] == b"ustar":
        with tarfile.open(fileobj=BytesIO(data)) as archive:
            yield from (archive.extractfile(member).read() for member in archive if member.isfile())
    elif data[:4] == b"PAR1":
        yield repr(pq.read_table(BytesIO(data)).to_pylist()).encode()
    elif data[128:132] == b"DICM":
        yield str(dcmread(BytesIO(data))).encode()
    if data[:4] in (b"\x89PNG", b"%PDF") or b"<html" in data[:200]:
        for start in _DEFLATED.finditer(data):
            with_error = zlib.decompressobj()
            try:
                yield with_error.decompress(data[start.start() :], 1 << 16)
            except zlib.error:
                continue
    for run in _BASE64.finditer(data):
        text = run[0].rstrip(b"=")
        try:
            yield base64.b64decode(text[: len(text) // 4 * 4])
        except ValueError:
            continue


def leaks(*folders: Path, but: tuple[Path, ...] = ()) -> list[str]:
    """Files below these folders with a sentinel in their name or content, except below ``but``."""
    return [
        str(path)
        for folder in folders
        for path in folder.rglob("*")
        if not any(path.is_relative_to(left_out) for left_out in but)
        and (
            _FOUND.search(str(path.relative_to(folder)).encode())
            or (path.is_file() and found_in(path.read_bytes()))
        )
    ]


def png_text(text: str) -> bytes:
    """A PNG file with a text in it that is packed."""
    info, file = PngInfo(), BytesIO()
    info.add_text("Comment", text, zip=True)
    Image.new("L", (4, 4)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()
