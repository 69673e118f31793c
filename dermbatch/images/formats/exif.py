"""What a picture's EXIF says: which side is up, and whether the colours are Adobe RGB (CIPA DC-008)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dermbatch.images.formats.chunks import chunk
from dermbatch.images.jpegheader import segments
from dermbatch.images.pixels import adobe_rgb

_ORIENTATION, _PHOTO, _COLOUR_SPACE, _INTEROPERABILITY = 0x0112, 0x8769, 0xA001, 0xA005
_BEGINNING = b"Exif\0\0"
_ICC = b"ICC_PROFILE\0"
_APP1, _APP2 = 0xE1, 0xE2


def exif_of(image: Image.Image, data: bytes, media_type: str) -> Image.Exif:
    """The EXIF of an opened file; empty if it is missing or broken: the picture is still good.

    XMP, from which Pillow fills in what EXIF leaves out, is ignored: viewers do not turn pictures because of it.

    Args:
        image: As Pillow opened it.
        data: The whole file.
        media_type: Media type of the file.
    """
    stated = image.info.get("exif")
    if (
        stated is None and media_type == "image/png"
    ):  # it may lie behind the picture (PNG, third edition, 11.3.4.5)
        stated = chunk(data, b"eXIf")
    return _exif(stated or b"")


def _exif(stated: bytes) -> Image.Exif:
    exif = Image.Exif()
    try:
        exif.load(stated)
        dict(exif)
    except Exception:
        return Image.Exif()
    return exif


def orientation(exif: Image.Exif) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 if it is missing or any other value."""
    try:
        value: Any = exif.get(_ORIENTATION, 1)
    except Exception:  # broken EXIF: the picture is still good
        return 1
    if isinstance(value, (bytes, tuple, list)) and value:  # another type than SHORT, or several values
        value = value[0]
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def exif_profile(exif: Image.Exif) -> bytes | None:
    """The profile of Adobe RGB if EXIF states these colours (DCF 2.0, 'R03'); else none."""
    try:
        photo, interoperability = exif.get_ifd(_PHOTO), exif.get_ifd(_INTEROPERABILITY)
    except Exception:  # as above
        return None
    index = str(interoperability.get(1, "")).strip("\0 ")
    return adobe_rgb() if index == "R03" or photo.get(_COLOUR_SPACE) == 2 else None


def told_by_jpeg(stream: bytes) -> tuple[int, bytes | None]:
    """Orientation and profile from a JPEG stream's own segments, for streams that Pillow cannot open."""
    exif = b""
    parts: dict[int, bytes] = {}
    for marker, body in segments(stream):
        if marker == _APP1 and body.startswith(_BEGINNING) and not exif:
            exif = body
        elif marker == _APP2 and body.startswith(_ICC):  # ICC.1, B.4: part number, number of parts, part
            parts.setdefault(body[len(_ICC)], body[len(_ICC) + 2 :])
    told = _exif(exif)
    embedded = b"".join(parts[number] for number in sorted(parts))
    return orientation(told), embedded or exif_profile(told)


def turned(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] turned upright according to the EXIF orientation (CIPA DC-008, tag 0x0112)."""
    if side in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if side in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if side in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
