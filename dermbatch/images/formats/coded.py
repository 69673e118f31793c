"""Coded pictures as files that neither Pillow nor OpenCV decode: JPEG of more than 8 bits, JPEG-LS.

imagecodecs (BSD) has the codecs: libjpeg-turbo for 12 and 16 bits, CharLS.
"""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dermbatch.errors import BadInput
from dermbatch.images.jpegheader import JpegHeader
from dermbatch.images.pixels import Rgb, in_eight_bits, over_white

JPEG_LS = 0xF7
"""The marker of a JPEG-LS frame header (ITU-T T.87, C.1.1)."""


def is_odd(header: JpegHeader) -> bool:
    """Whether a JPEG file is one of those that are decoded here."""
    return header.precision > 8 or header.marker == JPEG_LS


def odd_jpeg(data: bytes, header: JpegHeader, notes: list[str]) -> Rgb:
    """Pixels of a JPEG file of more than 8 bits a sample (ITU-T T.81), or of JPEG-LS (T.87).

    Args:
        data: The whole file.
        header: Of it; its size was checked.
        notes: Conversions are added.

    Returns:
        uint8 [H, W, 3], not turned.

    Raises:
        BadInput: ``unsupported_format``, where it has other components than grey or three colours.
        Exception: Anything that the decoder raises on damaged data.
    """
    if len(header.ids) not in (1, 3):
        raise BadInput(
            f"JPEG files of {header.precision} bits and {len(header.ids)} components are not taken; save as RGB",
            reason="unsupported_format",
        )
    decode = imagecodecs.jpegls_decode if header.marker == JPEG_LS else imagecodecs.jpeg8_decode
    return _shown(decode(data), header.precision, notes)


def _shown(samples: NDArray[Any], bits: int, notes: list[str]) -> Rgb:
    """Samples [H, W] or [H, W, 1 to 4] as uint8 RGB over white."""
    eight = in_eight_bits(samples, bits, notes)
    eight = eight if eight.ndim == 3 else eight[..., None]
    channels = eight.shape[2]
    rgb = eight[..., :3] if channels >= 3 else np.repeat(eight[..., :1], 3, axis=2)
    if channels < 3:
        notes.append("from_grey")
    rgb = np.ascontiguousarray(rgb)
    if channels in (2, 4):
        notes.append("from_rgba")
        return over_white(rgb, np.ascontiguousarray(eight[..., -1]))
    return rgb


def jpegls_is_damaged(picture: bytes) -> bool:
    """Whether the coded data of a JPEG-LS picture do not end where its samples do.

    As a damaged byte changes the meaning of all that follow, that shows it. Bytes behind the last sample are no
    damage.
    """
    try:
        imagecodecs.jpegls_decode(picture)
    except Exception as error:  # of the rest, the decoder of the pixels says what is wrong
        return "structural problem" in str(error)
    return False
