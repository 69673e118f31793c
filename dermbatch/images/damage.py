"""Damage that decoders overlook: files copied as text, and coded pictures that lack a part.

For 8-bit JPEG pictures simplejpeg (MIT) reports the warnings of libjpeg-turbo, such as coded data that do not fit;
OpenCV and Pillow do not.
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder

import imagecodecs
import numpy as np
import simplejpeg

from dermbatch.errors import BadInput
from dermbatch.images.pixels import Rgb

_ENOUGH = 8
"""Number of bytes whose change cannot be chance: once in 256 to this power."""
_SURELY = 64
_GLANCE = 65_536
"""Bytes from the start of a file within which anything but UTF-8 nearly always shows."""
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]")
_SHARE = 0.05
"""Number of bytes above 127 from which valid UTF-8 is no coincidence."""
_DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG", "Unsupported marker", "Invalid JPEG file", "Bogus")
"""How libjpeg's messages about damage begin (jerror.h); it gives only the first warning."""
_BEHIND = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_FILLING = re.compile(rb"[\t\n\r -~]*(?:\0*|\xff*)")
"""What may follow the last sample of a scan without belonging to the picture; coded data look different."""
_MOST_FILLED = 16
"""How many scans and restart intervals with something behind them are examined in one picture."""


def check_is_binary(data: bytes) -> None:
    """Refuse a file that was copied as if it were text: its picture may look whole and yet be shifted.

    Raises:
        BadInput: ``corrupt``.
    """
    if _has_converted_lines(data):
        raise BadInput(
            "the file was copied as text: each line feed in its picture has become CR LF; copy it again in binary "
            "mode",
            reason="corrupt",
        )
    if _is_recoded(data):
        raise BadInput(
            "the file was copied as text: its bytes were rewritten as UTF-8; copy it again in binary mode",
            reason="corrupt",
        )


def _has_converted_lines(data: bytes) -> bool:
    """Whether every line feed follows a carriage return, and not only in lines of text."""
    seen, at = 0, data.find(b"\n")
    while at >= 0:
        if data[at - 1 : at] != b"\r":
            return False
        around = data[max(at - 2, 0) : at - 1] + data[at + 1 : at + 2]
        seen += len(_TEXT.findall(around)) < len(around)
        if seen == _SURELY:
            return True
        at = data.find(b"\n", at + 1)
    return seen >= _ENOUGH


def _is_recoded(data: bytes) -> bool:
    """Whether all bytes above 127 form UTF-8 characters, and there are many of them."""
    try:
        getincrementaldecoder("utf-8")().decode(data[:_GLANCE])  # memory for all characters is reserved first
        characters = data.decode()
    except UnicodeDecodeError:
        return False
    return len(data) - len(characters) > _SHARE * len(data)


def jpeg_pixels(picture: bytes) -> Rgb | None:
    """Pixels of a JPEG picture with 8 bits a sample (ITU-T T.81), its colours as libjpeg interprets them.

    Args:
        picture: From its start marker on; anything may follow it.

    Returns:
        uint8 [H, W, 3], not turned; none if libjpeg-turbo's plain interface does not decode it.

    Raises:
        BadInput: ``corrupt``, if its coded data do not fit the picture.
    """
    pixels, damaged = _strictly(picture, "RGB")
    if damaged:
        raise BadInput(
            "the coded data of the JPEG file do not fit its picture: a part of it is damaged or missing; copy the "
            "file again",
            reason="corrupt",
        )
    return pixels


def jpeg_is_damaged(picture: bytes, components: int) -> bool:
    """Whether the coded data of an 8-bit JPEG picture do not fit it: damaged, cut off, or of another size.

    Not every damage shows: a changed byte may leave as many samples as there were.

    Args:
        picture: From the start marker on.
        components: How many it has.
    """
    return strictly_decoded(picture, components)[1]


def strictly_decoded(picture: bytes, components: int) -> tuple[Rgb | None, bool]:
    """The pixels of an 8-bit JPEG picture, its colours as libjpeg interprets them, and whether it is damaged.

    Args:
        picture: From the start marker on.
        components: How many it has; with four, the pixels have four channels.

    Returns:
        Pixels as of :func:`jpeg_pixels`, and what :func:`jpeg_is_damaged` says.
    """
    return _strictly(picture, "CMYK" if components == 4 else "RGB")


def _strictly(picture: bytes, space: str) -> tuple[Rgb | None, bool]:
    """The pixels, if libjpeg gives no warning; and whether it warns of damage."""
    for _ in range(_MOST_FILLED):
        try:
            return np.asarray(simplejpeg.decode_jpeg(picture, space)), False
        except ValueError as error:
            message = str(error)
        behind = _BEHIND.fullmatch(message)
        if behind is None:
            return None, message.startswith(_DAMAGE)
        without = _without_filling(picture, int(behind[1]), bytes.fromhex("ff" + behind[2]))
        if without is None:
            return None, True
        picture = without
    return None, False


def _without_filling(picture: bytes, length: int, marker: bytes) -> bytes | None:
    """The picture without this many bytes before one of these markers, if they do not belong to it; else none."""
    at = picture.find(marker)
    while at >= 0:
        if at >= length and _FILLING.fullmatch(picture, at - length, at):
            return picture[: at - length] + picture[at:]
        at = picture.find(marker, at + 1)
    return None


def jpegls_is_damaged(picture: bytes) -> bool:
    """Whether the coded data of a JPEG-LS picture do not end where its samples do.

    A damaged byte changes the meaning of all that follow, so this reveals it. Bytes after the last sample are no
    damage.
    """
    try:
        imagecodecs.jpegls_decode(picture)
    except Exception as error:  # other faults are reported by the decoder of the pixels
        return "structural problem" in str(error)
    return False
