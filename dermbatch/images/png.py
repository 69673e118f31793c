"""PNG encoding and decoding (W3C PNG, third edition), fast enough not to be a worker's main work.

Photographs are written with the filter "up" throughout and deflated by ISA-L. Measured on one core, dermoscopic
photographs of 1022 x 767 and 2816 x 2112 pixels, CPU milliseconds and megabytes:

=====================================  ==============  ==============
OpenCV, level 1                        30 ms, 0.45 MB  310 ms, 7.2 MB
OpenCV, level 1, run lengths           23 ms, 0.39 MB  294 ms, 5.8 MB
OpenCV, level 1, Huffman only          25 ms, 0.57 MB  240 ms, 5.9 MB
Pillow with zlib-ng, level 1           27 ms, 0.45 MB  396 ms, 7.2 MB
filter "up", zlib-ng level 2            7 ms, 0.39 MB  114 ms, 6.8 MB
filter "up", ISA-L level 1 (here)       3 ms, 0.40 MB   42 ms, 7.0 MB
=====================================  ==============  ==============
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2
_COLOUR_TYPE = {1: 0, 3: 2}  # channels to PNG colour type: grey, truecolour


def encode(image: NDArray[np.uint8]) -> bytes:
    """A PNG file, without loss.

    Args:
        image: [H, W] or [H, W, 3] uint8, neither side 0.
    """
    height, width = image.shape[:2]
    channels = image.shape[2] if image.ndim == 3 else 1
    rows = np.ascontiguousarray(image).reshape(height, width * channels)
    filtered = np.empty((height, 1 + width * channels), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])  # modulo 256, as the standard has it
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPE[channels], 0, 0, 0)
    pixels: Any = filtered  # isal_zlib's types know bytes only
    return b"".join(
        (_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", isal_zlib.compress(pixels, 1)), _chunk(b"IEND", b""))
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    check = isal_zlib.crc32(body, isal_zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(body)), kind, body, struct.pack(">I", check)))


def decode(body: bytes) -> NDArray[np.uint8]:
    """The image of a PNG file that :func:`encode` wrote.

    Returns:
        [H, W] or [H, W, 3] uint8.

    Raises:
        ValueError: If it is no readable PNG.
    """
    image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED) if body else None
    if image is None:
        raise ValueError("not a readable PNG")
    pixels = cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if image.ndim == 3 else image
    return np.asarray(pixels, np.uint8)
