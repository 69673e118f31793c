"""Coded pictures that Pillow and OpenCV do not decode: JPEG of more than 8 bits, JPEG-LS, odd JPEG 2000.

imagecodecs (BSD) has the codecs that they lack: libjpeg-turbo for 12 and 16 bits, CharLS, OpenJPEG.
"""

from __future__ import annotations

import struct
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dermbatch.errors import BadInput
from dermbatch.images.jpegheader import JPEG_LS, JpegHeader, begins_jpeg2000, read_jpeg2000_header
from dermbatch.images.pixels import Rgb, in_eight_bits, over_white


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
        BadInput: ``unsupported_format``, if it has other components than grey or three colours.
        Exception: Anything that the decoder raises on damaged data.
    """
    if len(header.ids) not in (1, 3):
        raise BadInput(
            f"JPEG files of {header.precision} bits and {len(header.ids)} components are not taken; save as RGB",
            reason="unsupported_format",
        )
    decode = imagecodecs.jpegls_decode if header.marker == JPEG_LS else imagecodecs.jpeg8_decode
    return _shown(decode(data), header.precision, notes)


def is_odd_jpeg2000(data: bytes) -> bool:
    """Whether a JPEG 2000 file is one of those that Pillow shows otherwise than they are meant.

    Of more than 8 bits it makes the lightest samples black; signs and the order of channels it passes over.
    """
    header = read_jpeg2000_header(data)
    return header is not None and (header.precision > 8 or header.signed or _is_reordered(data))


def _is_reordered(data: bytes) -> bool:
    """Whether a JP2 file says that its channels are other colours than their numbers (ITU-T T.800, I.5.3.6)."""
    at = data[: 1 << 16].find(b"cdef")
    if at < 0 or not begins_jpeg2000(data):
        return False
    count = int.from_bytes(data[at + 4 : at + 6], "big")
    stated = data[at + 6 : at + 6 + 6 * count]
    channels = [struct.unpack_from(">3H", stated, place) for place in range(0, len(stated) - 5, 6)]
    return any(kind == 0 and 0 < colour != number + 1 for number, kind, colour in channels)


def odd_jpeg2000(data: bytes, notes: list[str]) -> Rgb:
    """Pixels of a JPEG 2000 file that :func:`is_odd_jpeg2000`, by OpenJPEG itself.

    Args:
        data: The whole file; its size was checked.
        notes: Conversions are added.

    Returns:
        uint8 [H, W, 3].

    Raises:
        BadInput: ``unsupported_format``, if it has other components than grey or colours and opacity.
        Exception: Anything that the decoder raises on damaged data.
    """
    header = read_jpeg2000_header(data)
    samples = imagecodecs.jpeg2k_decode(data)
    channels = samples.shape[2] if samples.ndim == 3 else 1
    if header is None or channels > 4 or header.precision > 16:
        raise BadInput(
            f"JPEG 2000 files of {channels} components, or of more than 16 bits, are not taken; save as RGB",
            reason="unsupported_format",
        )
    if np.issubdtype(samples.dtype, np.signedinteger):
        samples = (samples.astype(np.int32) + (1 << (header.precision - 1))).clip(0).astype(np.uint16)
    return _shown(samples, header.precision, notes)


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
