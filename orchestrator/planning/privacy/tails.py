"""What follows the last sample within entropy-coded data: decoders ignore it, and it may be text.

Only decoding tells where samples end. So the end of a coded segment is overwritten with zeros, and if the picture
stays the same, that end did not belong to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dermbatch.errors import BadInput
from dermbatch.images.dicom.fragments import Place, fragments, is_whole, joined, picture_of, pictures
from dermbatch.images.dicom.header import element
from dermbatch.images.dicomfile import check_damage
from dermbatch.images.jpegheader import JPEG_LS, begins_jpeg2000, read_jpeg_header

_LEAST = 4
"""Least number of bytes that are looked for: fewer cannot spell a name."""
_LOOKED_AT = 64
"""Bytes at the end of a segment that show whether decoding is worthwhile."""
_TEXT = re.compile(rb"[ -~\x80-\xfe]{12}|[ -~]{6}|\0{4}")
_MARKER = re.compile(rb"\xff([\xc0-\xfe])")
_SOS, _SOD, _SOT, _EOI = 0xDA, 0x93, 0x90, 0xD9
_LOSSLESS = 0xC3

Decode = Callable[[bytes], NDArray[Any] | None]


def without_tails(pixel_data: bytes) -> bytes:
    """Encapsulated pixel data of a JPEG family, of the same length, with the same pictures.

    Args:
        pixel_data: Basic offset table and fragments; everything outside the coded segments has been handled.

    Raises:
        BadInput: ``not_deidentified``, if only a decoder that is not available could tell; ``corrupt``.
    """
    made = bytearray(pixel_data)
    for places in pictures(pixel_data, fragments(pixel_data)[1:]):
        stream = joined(pixel_data, places)
        begin = len(stream) - len(picture_of(stream))
        clean = stream[:begin] + _clean(stream[begin:])
        for start, end in places:
            made[start:end], clean = clean[: end - start], clean[end - start :]
    return bytes(made)


def _clean(picture: bytes) -> bytes:
    check_damage(picture, None if begins_jpeg2000(picture) else read_jpeg_header(picture))
    decode, always = _decoder(picture)
    worth = [
        (start, end)
        for start, end, last in _segments(picture)
        if (always and last) or _TEXT.search(picture, max(start, end - _LOOKED_AT), end)
    ]
    right = decode(picture) if worth else None
    if right is None:
        if worth and not always and is_whole(picture):  # CharLS decodes nothing with more than the picture in it
            raise BadInput(
                f"{element('PixelData')}: there may be text after the last sample, which no decoder here can "
                f"rule out; export the image again",
                reason="not_deidentified",
            )
        return picture  # whoever reads it will say why
    for start, end in worth:
        picture = _without_tail(picture, (start, end), lambda one: _same(decode(one), right))
    return picture


def _without_tail(picture: bytes, place: Place, same: Callable[[bytes], bool]) -> bytes:
    """The picture with as many zeros at the end of a segment as possible without changing it."""
    start, end = place
    end -= len(picture[start:end]) - len(picture[start:end].rstrip(b"\0"))

    def zeroed(count: int) -> bytes:
        return picture[: end - count] + bytes(count) + picture[end:]

    most = end - start
    good, bad = 0, min(_LEAST, most)
    while bad < most and same(zeroed(bad)):
        good, bad = bad, min(2 * bad, most)
    while good and bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if same(zeroed(middle)) else (good, middle)
    return zeroed(good)


def _same(one: NDArray[Any] | None, other: NDArray[Any]) -> bool:
    return one is not None and np.array_equal(one, other)


def _decoder(picture: bytes) -> tuple[Decode, bool]:
    """A decoder for the picture, and whether it is fast enough to be run for every scan."""
    if begins_jpeg2000(picture):
        return _by(imagecodecs.jpeg2k_decode), False
    header = read_jpeg_header(picture)
    if header is None:
        return (lambda _: None), False
    if header.marker == JPEG_LS:
        return _by(imagecodecs.jpegls_decode), False
    # Not OpenCV, which lets libjpeg complain on standard error about the copies that are tried.
    return _by(imagecodecs.jpeg8_decode), header.precision == 8 and header.marker != _LOSSLESS


def _by(codec: Callable[[bytes], NDArray[Any]]) -> Decode:
    def decode(picture: bytes) -> NDArray[Any] | None:
        try:
            return codec(picture)
        except Exception:  # decoders fail on untrusted files in every possible way
            return None

    return decode


def _segments(picture: bytes) -> Iterator[tuple[int, int, bool]]:
    """Where entropy-coded segments begin and end, and whether they are the last of their scan."""
    yield from _tile_parts(picture) if begins_jpeg2000(picture) else _scans(picture)


def _scans(picture: bytes) -> Iterator[tuple[int, int, bool]]:
    """Of JPEG and JPEG-LS (ITU-T T.81, B.1.1.5): from a scan's header or a restart marker to the next marker."""
    at = 2
    while at + 4 <= len(picture) and picture[at] == 0xFF and picture[at + 1] != _EOI:
        marker = picture[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        at += 2 + (0 if 0xD0 <= marker <= 0xD8 else int.from_bytes(picture[at + 2 : at + 4], "big"))
        if marker == _SOS or 0xD0 <= marker <= 0xD7:
            found = _MARKER.search(picture, at)
            end = found.start() if found else len(picture)
            yield at, end, found is None or not 0xD0 <= picture[end + 1] <= 0xD7
            at = end


def _tile_parts(picture: bytes) -> Iterator[tuple[int, int, bool]]:
    """Of JPEG 2000 (ITU-T T.800, A.4): from where a tile-part's data begin to its end."""
    at = max(2, picture.find(b"\xff\x4f\xff\x51") + 2)
    tile, length = at, 0
    while at + 4 <= len(picture) and picture[at] == 0xFF and picture[at + 1] != _EOI:
        marker = picture[at + 1]
        if marker == _SOD:
            end = tile + length if length else picture.rfind(b"\xff\xd9")
            yield at + 2, min(end, len(picture)), True
            at = end if end > at else len(picture)
            continue
        if marker == _SOT:
            tile, length = at, int.from_bytes(picture[at + 6 : at + 10], "big")
        at += 2 + int.from_bytes(picture[at + 2 : at + 4], "big")
