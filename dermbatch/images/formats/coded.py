"""Coded pictures that Pillow and OpenCV do not decode: JPEG of a depth other than 8 bits, JPEG-LS, odd JPEG 2000.

imagecodecs (BSD) has the codecs that they lack: libjpeg-turbo for 2 to 16 bits, CharLS, OpenJPEG.
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

_UNDECODED = frozenset({0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF})
_CLEARLY = 64
"""How far, of 255, a picture's mean black may be from either end of the scale: skin takes little ink."""


def is_odd(header: JpegHeader) -> bool:
    """Whether a JPEG file is one that this module decodes."""
    return header.precision != 8 or header.marker == JPEG_LS


def check_process(header: JpegHeader) -> None:
    """Refuse what no decoder here has: some coding processes (ITU-T T.81, table B.1), a height that comes late.

    Raises:
        BadInput: ``unsupported_format``.
    """
    if header.height == 0:  # stated behind the first scan (ITU-T T.81, B.2.5)
        raise BadInput(
            "this is a JPEG file that states its height at its end (DNL), which is not taken; re-save it",
            reason="unsupported_format",
        )
    if header.marker in _UNDECODED:
        raise BadInput(
            "this is a hierarchical JPEG file, or a lossless one of arithmetic coding, which are not taken; save "
            "it as baseline JPEG or PNG",
            reason="unsupported_format",
        )


def odd_jpeg(data: bytes, header: JpegHeader, notes: list[str]) -> Rgb:
    """Pixels of a JPEG file with a sample depth other than 8 bits (ITU-T T.81), or of a JPEG-LS file (T.87).

    Args:
        data: The whole file.
        header: Its header, whose size was checked.
        notes: Conversions are added.

    Returns:
        uint8 [H, W, 3], not turned.

    Raises:
        BadInput: ``unsupported_format``, unless its components are grey or three colours.
        Exception: Anything that the decoder raises on damaged data.
    """
    if len(header.ids) not in (1, 3):
        raise BadInput(
            f"JPEG files of {header.precision} bits and {len(header.ids)} components are not taken; save as RGB",
            reason="unsupported_format",
        )
    decode = imagecodecs.jpegls_decode if header.marker == JPEG_LS else imagecodecs.jpeg8_decode
    return _shown(decode(data), header.precision, notes)


def named_rgb(data: bytes) -> Rgb:
    """Pixels of a JPEG file whose components are named R, G and B, but which libjpeg would take for YCbCr."""
    return np.asarray(imagecodecs.jpeg8_decode(data, colorspace="RGB", outcolorspace="RGB"), np.uint8)


def stores_ink(black: NDArray[np.uint8]) -> bool:
    """Whether 0 means no ink in a CMYK JPEG file without Adobe's marker; with the marker, 0 means full ink.

    Args:
        black: The samples of its fourth component, as they are stored.

    Raises:
        BadInput: ``unsupported_format``, if they do not decide it.
    """
    mean = float(black.mean())
    if _CLEARLY < mean < 255 - _CLEARLY:
        raise BadInput(
            "this is a CMYK JPEG file without Adobe's marker, so nothing says if 0 is all of the ink or none; "
            "save it as RGB",
            reason="unsupported_format",
        )
    return mean <= _CLEARLY


def is_odd_jpeg2000(data: bytes) -> bool:
    """Whether a JPEG 2000 file is one that Pillow shows wrongly.

    With more than 8 bits it turns the lightest samples black, and with fewer it turns none white. It ignores signs
    and what a file says about its channels, and opens no file with more than four channels.
    """
    header = read_jpeg2000_header(data)
    if header is None:
        return False
    usual = all(channel in (_plain(number), (number, 1, 0)) for number, channel in enumerate(_channels(data)))
    return header.precision != 8 or header.signed or header.components > _MOST_CHANNELS or not usual


_MOST_CHANNELS = 4
_COLOUR, _OPACITY, _ASSOCIATED = range(3)
Channel = tuple[int, int, int]
"""Number, kind, and which colour it belongs to, from 1."""


def _plain(number: int) -> Channel:
    return number, _COLOUR, number + 1


def _channels(data: bytes) -> list[Channel]:
    """What a JP2 file says about its channels (ITU-T T.800, I.5.3.6); empty if it says nothing."""
    at = data[: 1 << 16].find(b"cdef")
    if at < 0 or not begins_jpeg2000(data):
        return []
    count = int.from_bytes(data[at + 4 : at + 6], "big")
    stated = data[at + 6 : at + 6 + 6 * count]
    return sorted(struct.unpack_from(">3H", stated, place) for place in range(0, len(stated) - 5, 6))


def odd_jpeg2000(data: bytes, notes: list[str]) -> Rgb:
    """Pixels of a JPEG 2000 file for which :func:`is_odd_jpeg2000` holds, decoded by OpenJPEG itself.

    Args:
        data: The whole file; its size was checked.
        notes: Conversions are added.

    Returns:
        uint8 [H, W, 3].

    Raises:
        BadInput: ``unsupported_format``, unless its components are grey or three colours, with or without opacity.
        Exception: Anything that the decoder raises on damaged data.
    """
    header = read_jpeg2000_header(data)
    count = header.components if header is not None else 0
    if header is None or count > _MOST_CHANNELS or header.precision > 16:
        raise BadInput(
            f"JPEG 2000 files of {count} components, or of more than 16 bits, are not taken; save as RGB",
            reason="unsupported_format",
        )
    samples = imagecodecs.jpeg2k_decode(data)
    if np.issubdtype(samples.dtype, np.signedinteger):
        samples = (samples.astype(np.int32) + (1 << (header.precision - 1))).clip(0).astype(np.uint16)
    # OpenJPEG puts colours in their order, and opacity behind them.
    kinds = [kind for _, kind, _ in _channels(data)]
    if samples.ndim == 3 and samples.shape[2] in (2, 4) and len(kinds) == samples.shape[2]:
        opaque = samples.shape[2] - 1
        if not {_OPACITY, _ASSOCIATED} & set(kinds):
            notes.append("extra_samples_dropped")
            samples = samples[..., :opaque]
        elif _ASSOCIATED in kinds:
            notes.append("from_rgba")
            white = samples[..., opaque:].astype(np.int64)
            top = (1 << header.precision) - 1
            samples = np.minimum(top - white + samples[..., :opaque], top).astype(samples.dtype)
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
