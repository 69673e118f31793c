"""A picture stored as its difference from another of the same size: which pixels differ, and their values.

A purified picture is its original except for hair, rulers and ink: some 1 % of the pixels, whose replacements are
smooth. Mean bytes over 10 photographs as cameras made them, 12 phantoms and 13 small pictures of 200 x 150:

=================================  ==========  ==========  ==========
PNG (:mod:`dermbatch.images.png`)  2,772,252   618,295     35,624
JPEG XL, lossless, effort 1                    418,830     23,549
WebP, lossless, method 0                       417,321     24,301
differences, values as they are    14,382      18,452      850
differences, each from the last    **13,104**  **16,221**  **646**
=================================  ==========  ==========  ==========

Brotli and LZMA are within a tenth of this, and take longer. Layout: ``DIFF``, version 1, height and width (32 bit,
big-endian); then, compressed by Zstandard (RFC 8878), one bit for each pixel, set if it changed, row by row with
the highest bit first and the last byte padded; and the values of the changed pixels, for red, green and blue in
turn, each less the value before it (modulo 256).
"""

from __future__ import annotations

import struct

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

_HEADER = struct.Struct(">4sBII")
_MAGIC, _VERSION = b"DIFF", 1
_LEVEL = 9
_NOTHING = np.zeros(3)
_MOST_CHANGED = 0.5
"""Share of changed pixels from which storing differences no longer saves much."""


def encode(picture: Picture, source: Picture) -> bytes | None:
    """The difference that turns a source into a picture; none if they have little in common.

    Args:
        picture: [H, W, 3] uint8 RGB.
        source: Likewise.
    """
    if picture.shape != source.shape:
        return None
    changed = cv2.inRange(cv2.absdiff(picture, source), _NOTHING, _NOTHING) == 0
    values = picture[changed]
    if len(values) > _MOST_CHANGED * changed.size:
        return None
    steps = np.diff(values, axis=0, prepend=np.zeros((1, 3), np.uint8))  # modulo 256
    packed = imagecodecs.zstd_encode(np.packbits(changed).tobytes() + steps.T.tobytes(), _LEVEL)
    return _HEADER.pack(_MAGIC, _VERSION, *picture.shape[:2]) + bytes(packed)


def apply(body: bytes, source: Picture) -> Picture:
    """The picture that :func:`encode` was given.

    Args:
        body: What :func:`encode` returned.
        source: [H, W, 3] uint8 RGB: exactly the same source, which the caller has to make sure of.

    Raises:
        ValueError: If it is not something that :func:`encode` returns for a source of this size.
    """
    height, width = source.shape[:2]
    if body[: _HEADER.size] != _HEADER.pack(_MAGIC, _VERSION, height, width):
        raise ValueError("no differences from a picture of this size")
    bits = -(-height * width // 8)
    try:
        most = bits + 3 * height * width
        unpacked = np.frombuffer(imagecodecs.zstd_decode(body[_HEADER.size :], out=most), np.uint8)
    except (RuntimeError, ValueError) as error:
        raise ValueError("differences cannot be unpacked") from error
    changed = np.unpackbits(unpacked[:bits], count=height * width).astype(bool).reshape(height, width)
    steps = unpacked[bits:]
    if len(steps) != 3 * np.count_nonzero(changed):
        raise ValueError("differences are cut off")
    picture = source.copy()
    picture[changed] = np.cumsum(steps.reshape(3, -1), axis=1, dtype=np.uint8).T
    return picture
