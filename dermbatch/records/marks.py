"""Recognise what Dermbatch wrote, by its bytes or its place, so that its results never become its input.

PNG files have ``Software: Dermbatch`` as text (W3C PNG, 11.3.3), JPEG files a comment (ITU-T T.81, B.2.4.5), DICOM
files manufacturer and model (PS3.3, C.7.5.1). Files of older versions are recognised by their place: in a folder
or bucket of results.
"""

from __future__ import annotations

import re
import struct
import zlib
from io import BytesIO

from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag

from dermbatch.errors import BadInput
from dermbatch.images.quiet import quiet

MANUFACTURER = "Dermbatch"
"""In DICOM objects."""

HEAD_BYTES = 32 << 10
"""Bytes at the start of a file that are enough to look for a mark."""

_TEXT = b"Software\0Dermbatch"
_CHUNK = struct.pack(">I", len(_TEXT)) + b"tEXt" + _TEXT + struct.pack(">I", zlib.crc32(b"tEXt" + _TEXT))
_COMMENT = b"\xff\xfe\x00\x0bDermbatch"
_LAST = 0x00081090  # Manufacturer's Model Name
_PNG_START = 33  # bytes of signature and header chunk

FILE_NAMES = frozenset(
    {"purified.png", "mask.png", "border.png", "enhanced.png", "saliency.png", "visualbackprop.png", "preview.jpg"}
)
"""Names of result pictures, wherever they are copied to."""

_PLACES = re.compile(
    r"(^|/)(images/[0-9a-f]{64}/(purify|segment|enhance|classify|preview)/[0-9a-f]+/[^/]+"
    r"|images/known/[0-9a-f]{32}\.json"
    r"|batches/[a-z0-9][a-z0-9._-]*/((results|failed|dicom|manifest)/\d{6}[/.].*"
    r"|(batch|plan|summary)\.json|(report|comparison)\.html|(results|comparison)\.parquet|results\.parquet/[^/]+))$"
)


def marked_png(png: bytes) -> bytes:
    """A PNG file with the mark."""
    return png[:_PNG_START] + _CHUNK + png[_PNG_START:]


def marked_jpeg(jpeg: bytes) -> bytes:
    """A JPEG file with the mark."""
    return jpeg[:2] + _COMMENT + jpeg[2:]


def is_result_path(path: str) -> bool:
    """Whether a file lies where only results do (:mod:`dermbatch.layout`), by its path below an input."""
    return _PLACES.search(path) is not None


def is_marked(head: bytes) -> bool:
    """Whether a file is a picture or a DICOM object of Dermbatch's own.

    Args:
        head: Its first bytes, of DICOM files up to :data:`HEAD_BYTES`.
    """
    if head.startswith(b"\x89PNG"):
        return head[_PNG_START : _PNG_START + len(_CHUNK)] == _CHUNK
    if head.startswith(b"\xff\xd8"):
        return head[2 : 2 + len(_COMMENT)] == _COMMENT
    return MANUFACTURER.encode() in head and _is_ours(head)


def own_result() -> BadInput:
    """The error for a result that was named as input, or found where its place does not show what it is."""
    text = "the file is a result that Dermbatch wrote, and no input; give the picture that it was made of"
    return BadInput(text, reason="own_result")


def _is_ours(head: bytes) -> bool:
    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        return int(tag) > _LAST

    wanted = [Tag("Manufacturer"), Tag("ManufacturerModelName")]
    with quiet():
        try:
            header = read_partial(BytesIO(head), stop, force=True, specific_tags=list(wanted))
            return all(str(header.get(tag).value).strip() == MANUFACTURER for tag in wanted)
        except Exception:  # untrusted, and readers fail in every possible way: not ours
            return False
