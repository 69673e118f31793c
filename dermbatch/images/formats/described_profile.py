"""Profiles for colours that PNG, AVIF, HEIC and JPEG 2000 files describe without an ICC profile."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NoReturn

import numpy as np

from dermbatch.errors import BadInput
from dermbatch.images.pixels import grey_profile, matrix_profile

Chromaticities = tuple[float, ...]
"""x and y of white, red, green and blue."""

_D65 = (0.3127, 0.3290)
_SRGB: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES = {
    **dict.fromkeys((1, 2, 5, 6, 7), _SRGB),  # standard television's are close enough
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""Colour primaries by their code points (ITU-T H.273, table 2)."""
_GAMMA = {**dict.fromkeys((1, 2, 6, 13, 14, 15), 2.2), 4: 2.2, 5: 2.8, 8: 1.0}
"""Exponents by code point of transfer characteristics (H.273, table 3); similar curves use that of sRGB."""
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])
_JP2_SRGB = frozenset({16, 17, 18})  # sRGB, grey, sYCC (ITU-T T.800, table I.10)
_GREYS = (0, 4)
"""Colour types of grey PNG files (11.2.1)."""
_HEAD = 1 << 16


def described_profile(data: bytes, media_type: str) -> bytes | None:
    """The profile of the colours that a file describes; none if they are sRGB or are not described.

    Args:
        data: The whole file, in which its reader finds no ICC profile.
        media_type: Media type of the file.

    Raises:
        BadInput: ``unsupported_format``, if the colours cannot be converted: high dynamic range, for example.
    """
    if media_type == "image/png":
        return _png(data)
    if media_type in ("image/avif", "image/heic"):
        at = data.find(b"colrnclx", 0, _HEAD)
        return _coded(*struct.unpack_from(">HH", data, at + 8)) if 0 <= at < len(data) - 12 else None
    if media_type == "image/jp2":
        return _jp2(data)
    return None


def primaries_profile(chromaticities: Chromaticities) -> bytes | None:
    """The profile for the white point and primaries that a file states; none if they are practically sRGB."""
    return _profile(chromaticities, 2.2)


def _png(data: bytes) -> bytes | None:
    """From cICP, which takes precedence, or else from gAMA and cHRM (PNG, third edition, 4.3)."""
    chunks, grey = dict(_chunks(data)), data[25] in _GREYS
    if len(coded := chunks.get(b"cICP", b"")) == 4:
        if not coded[3]:  # not full range
            _refuse("of video's narrow range, which is not taken")
        return _coded(coded[0], coded[1], grey=grey)
    if b"sRGB" in chunks:
        return None
    gamma = 2.2
    if len(chunks.get(b"gAMA", b"")) == 4 and (encoded := int.from_bytes(chunks[b"gAMA"], "big")):
        gamma = 100_000 / encoded
    stated = chunks.get(b"cHRM", b"")
    white = tuple(one / 100_000 for one in struct.unpack(">8I", stated)) if len(stated) == 32 else _SRGB
    return _profile(white, gamma, grey=grey)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG file before its picture."""
    at = 8
    while at + 8 <= len(data) and data[at + 4 : at + 8] not in (b"IDAT", b"IEND"):
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def _coded(primaries: int, transfer: int, *, grey: bool = False) -> bytes | None:
    if primaries not in _PRIMARIES or transfer not in _GAMMA:
        _refuse("in a colour space, or of a dynamic range, that is not taken")
    return _profile(_PRIMARIES[primaries], _GAMMA[transfer], grey=grey)


def _jp2(data: bytes) -> bytes | None:
    """From the box that describes the colours (ITU-T T.800, I.5.3.3), by a profile or a number."""
    at = data.find(b"colr", 0, _HEAD)
    if at < 4 or not data.startswith(b"\0\0\0\x0cjP  "):
        return None
    length = int.from_bytes(data[at - 4 : at], "big")
    if data[at + 4] in (2, 3):  # restricted, or any (ITU-T T.801, M.11.7.3.1)
        return data[at + 7 : at - 4 + length]
    if data[at + 4] == 1 and int.from_bytes(data[at + 7 : at + 11], "big") not in _JP2_SRGB:
        _refuse("in a colour space that is not taken")
    return None


def _refuse(what: str) -> NoReturn:
    raise BadInput(f"the picture is {what}; save it as sRGB of 8 or 16 bits", reason="unsupported_format")


@lru_cache(maxsize=16)
def _profile(white: Chromaticities, gamma: float, *, grey: bool = False) -> bytes | None:
    """A profile (ICC.1, 8.3); none if it is practically sRGB, or describes no colour space."""
    near = grey or max(abs(a - b) for a, b in zip(white, _SRGB, strict=True)) < 0.005
    if (near and abs(gamma - 2.2) < 0.1) or not 0.5 <= gamma <= 5 or min(white[1::2]) <= 0:
        return None
    if grey:
        return grey_profile(b"described grey", gamma)
    xyz = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in zip(white[::2], white[1::2], strict=True)])
    primaries = xyz[1:].T
    if abs(np.linalg.det(primaries)) < 1e-6:
        return None
    scaled = primaries * np.linalg.solve(primaries, xyz[0])
    cone = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ xyz[0]))
    adapted = np.linalg.inv(_BRADFORD) @ cone @ _BRADFORD @ scaled
    return matrix_profile(b"described colours", adapted.T.tolist(), gamma)
