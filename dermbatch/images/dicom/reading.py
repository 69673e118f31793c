"""The data set of a DICOM file: even if what belongs around it is missing, and in its true byte order."""

from __future__ import annotations

import zlib
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dermbatch.errors import BadInput
from dermbatch.images.dicom.header import element
from dermbatch.images.dicompolicy import text

_LARGEST_DATA_SET = 2 * 1024**3


def truncated() -> BadInput:
    """The refusal of an image whose pixel data are cut off."""
    return BadInput(
        f"{element('PixelData')} ends before the picture does; copy the file again, or export it again",
        reason="truncated",
    )


def parse(data: bytes) -> Dataset:
    """The data set, its file meta information supplied if the file has none.

    Raises:
        BadInput: ``truncated`` if nothing is there, ``too_large`` if it would inflate to fill the memory.
        Exception: Anything that pydicom raises on a damaged file; its text may quote the header.
    """
    _check_deflated(data)
    ordered, declared = _in_true_order(data)
    dataset = dcmread(BytesIO(ordered), force=True)
    if len(dataset) == 0:
        raise truncated()
    meta = dataset.file_meta
    syntax = declared or text(meta, "TransferSyntaxUID")
    if not syntax:
        implicit, _ = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    meta.TransferSyntaxUID = UID(syntax)
    return dataset


def _in_true_order(data: bytes) -> tuple[bytes, str]:
    """The file with the transfer syntax that fits the byte order of its first element, and the stated one.

    Explicit VR Little and Big Endian, whose UIDs differ in a character, are told apart by the group's number.
    """
    start = 144 + int.from_bytes(data[140:144], "little")
    stem = ExplicitVRBigEndian[:-1]
    at = data.find(stem.encode(), 132, start)
    last, end = at + len(stem), data[at + len(stem) : at + len(stem) + 2]
    group = data[start : start + 2]
    if data[128:132] != b"DICM" or at < 0 or end not in (b"1\0", b"2\0") or 0 not in group or not any(group):
        return data, ""
    right = b"2" if group[0] == 0 else b"1"
    return data[:last] + right + data[last + 1 :], stem + end[:1].decode()


def _check_deflated(data: bytes) -> None:
    """Refuse a deflated data set that would fill the memory, before pydicom inflates it in one go."""
    if data[128:132] != b"DICM" or DeflatedExplicitVRLittleEndian.encode() not in data[:1024]:
        return  # a file that hides this is inflated within the limits of the process
    start = 144 + int.from_bytes(data[140:144], "little")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    rest, size = data[start:], 0
    while rest and not inflater.eof:
        try:
            size += len(inflater.decompress(rest, 1 << 24))
        except zlib.error:
            raise BadInput(
                f"{element('TransferSyntaxUID')} says that the data set is deflated, but it is not, or is cut "
                f"off; export the image again",
                reason="corrupt",
            ) from None
        rest = inflater.unconsumed_tail
        if size > _LARGEST_DATA_SET:
            raise BadInput(
                "the deflated DICOM data set is too large; export the image without deflating it",
                reason="too_large",
            )
