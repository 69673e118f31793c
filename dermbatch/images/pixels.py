"""Pixels of a source image: what every reader returns, and the conversions that readers share."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from dermbatch.bounded.limits import announce
from dermbatch.errors import BadInput
from dermbatch.images.quiet import quiet

Rgb = NDArray[np.uint8]

_SPACES = {"RGB": "RGB", "CMYK": "CMYK", "L": "GRAY"}
"""Colour spaces of ICC profiles by Pillow's modes."""
_AT_ONCE = 1 << 18  # samples that are looked up at a time

MIN_SIDE = 16
"""Images with fewer rows or columns show no lesion; they are refused as ``too_small``."""


@dataclass(frozen=True)
class SourceImage:
    """An image as displayed.

    Attributes:
        pixels: uint8 [H, W, 3], sRGB, upright, contiguous in memory.
        media_type: Type of the content, whatever the file's name says: ``image/jpeg``, ``application/dicom`` ...
        pixel_spacing_mm: (row, column) distance of pixel centres in mm, if the image states it. The dots per inch
            of JPEG, PNG and TIFF files refer to paper and are ignored.
        notes: Conversions that were needed: ``exif_rotated``, ``from_grey``, ``from_palette``, ``from_16_bit``,
            ``from_cmyk``, ``from_rgba`` (laid over white), ``from_icc`` (colours converted from another space),
            ``from_monochrome1``, ``corrected_...`` (an element of a DICOM header that the pixel data refute or
            that is missing), ``scaled_to_used_bits`` ...: ``docs/inputs.md`` has all of them. ``spacing_imager``,
            ``spacing_nominal``: where the spacing was found; ``spacing_unusable`` ...: why there is none.
        pixel_aspect: Height over width of a pixel, if no spacing is known and pixels are not square.
    """

    pixels: Rgb
    media_type: str
    pixel_spacing_mm: tuple[float, float] | None
    notes: tuple[str, ...]
    pixel_aspect: float | None = None


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Refuse a picture that is too large or too small before its pixels are decoded; set limits by any other size.

    Raises:
        BadInput: ``too_large``, ``too_small``.
    """
    if height * width > max_pixels:
        raise BadInput(
            f"the image has {width} x {height} pixels, more than the {max_pixels:,} that are taken; "
            "make it smaller, or raise DERMBATCH_WORKER__MAX_PIXELS",
            reason="too_large",
        )
    if min(height, width) < MIN_SIDE:
        raise BadInput(
            f"the image has {width} x {height} pixels; at least {MIN_SIDE} on each side are needed",
            reason="too_small",
        )
    announce(height * width)


def opencv_decode(data: bytes, flags: int) -> NDArray[Any] | None:
    """Pixels by OpenCV in RGB order, not turned; None if it cannot decode them.

    Raises:
        MemoryError: If memory runs out.
    """
    try:
        pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        if says_memory(error):
            raise MemoryError from error
        return None
    if pixels is not None and pixels.ndim == 3:
        order = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
        pixels = cv2.cvtColor(pixels, order, dst=pixels)
    return None if pixels is None else np.asarray(pixels)


def says_memory(error: Exception) -> bool:
    """Whether a decoder's error says that it got no memory."""
    message = str(error).lower()
    return any(
        words in message for words in ("insufficient memory", "bad_alloc", "out of memory", "failed to allocate")
    )


def to_eight_bit(pixels: NDArray[np.unsignedinteger[Any]], bits: int) -> Rgb:
    """Scale samples of ``bits`` bits (1 to 16) to 0..255, rounding to nearest; larger samples become 255."""
    top = (1 << bits) - 1
    table = ((np.arange(1 << 16, dtype=np.uint32).clip(max=top) * 255 + top // 2) // top).astype(np.uint8)
    made = np.empty(pixels.shape, np.uint8)
    step = max(1, _AT_ONCE * len(pixels) // max(pixels.size, 1)) if pixels.ndim else 1
    for first in range(0, len(pixels), step):  # NumPy makes each index eight bytes
        made[first : first + step] = table[pixels[first : first + step]]
    return made


_STEPS = (8, 10, 12)


def used_bits(samples: NDArray[np.unsignedinteger[Any]], bits: int) -> int:
    """How many bits of its samples a picture uses: fewer than stated if it would be nearly black, or more.

    Cameras with 10 or 12 bits store their samples in 16-bit words, and not all shift them up. A picture in which
    nothing reaches a sixteenth of the stated depth's range is one of those.

    Args:
        samples: Of any shape.
        bits: As stated, 1 to 16.

    Returns:
        8, 10, 12 or ``bits``; more than ``bits`` if a sample needs them.
    """
    top = int(samples.max()) if samples.size else 0
    if top >> bits:
        return min(16, top.bit_length())
    fitting = [step for step in _STEPS if step + 4 <= bits and top < 1 << step]
    return fitting[0] if fitting and top > 1 else bits


def in_eight_bits(samples: NDArray[np.unsignedinteger[Any]], bits: int, notes: list[str]) -> Rgb:
    """Samples of any shape, stated to have ``bits`` bits (1 to 16), as uint8 by the bits used; adds notes."""
    if bits == 8 and samples.dtype == np.uint8:
        return np.asarray(samples, np.uint8)
    if bits > 8:
        notes.append("from_16_bit")
    used = used_bits(samples, bits)
    if used != bits:
        notes.append("scaled_to_used_bits")
    return to_eight_bit(samples, used)


def over_white(rgb: Rgb, alpha: Rgb) -> Rgb:
    """Lay ``rgb`` [H, W, 3] with its opacity [H, W] over white, as viewers do.

    An opacity of 0 everywhere is not meant as one: some writers leave a fourth channel of zeros (in BMP, for one).
    """
    if (alpha == 255).all() or not alpha.any():
        return rgb
    share = alpha[..., None].astype(np.uint16)
    mixed: Rgb = ((rgb * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)
    return mixed


def to_srgb(pixels: Rgb, profile: bytes, *, grey: bool = False) -> Rgb | None:
    """Convert pixels from the colour space of an embedded ICC profile to sRGB.

    Args:
        pixels: uint8 [H, W, 3].
        profile: ICC profile.
        grey: Whether the pixels are grey: then the profile has to be one for grey values.

    Returns:
        uint8 [H, W, 3], or None if nothing needs to be done: the profile is sRGB itself, is not for such pixels,
        or is broken (viewers ignore it then, too).
    """
    transform = _transform(profile, "L" if grey else "RGB")
    if transform is None:
        return None
    return np.asarray(transform.apply(Image.fromarray(np.ascontiguousarray(pixels[..., 0]) if grey else pixels)))


@lru_cache(maxsize=1)
def adobe_rgb() -> bytes:
    """An ICC profile of Adobe RGB (1998), section 4.3: its primaries adapted to D50, gamma 563 / 256."""
    primaries = [[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]]
    return matrix_profile(b"Adobe RGB compatible", primaries, 563 / 256)


def matrix_profile(description: bytes, primaries: list[list[float]], gamma: float) -> bytes:
    """An ICC profile with three primaries and a gamma (ICC.1, 8.3).

    Args:
        description: What it is called.
        primaries: X, Y and Z of red, green and blue, adapted to D50.
        gamma: Exponent, up to 255.
    """
    named = zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
    tags = {name: _xyz(one) for name, one in named} | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma))
    return _icc(b"RGB ", description, tags)


def grey_profile(description: bytes, gamma: float) -> bytes:
    """An ICC profile for grey values with a gamma (ICC.1, 8.3.4).

    Args:
        description: What it is called.
        gamma: Exponent, up to 255.
    """
    return _icc(b"GRAY", description, {b"kTRC": _curve(gamma)})


def _xyz(values: list[float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(one * 65536) for one in values))


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def _icc(space: bytes, description: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A profile with these tags, and with those that every profile must have (ICC.1, 7)."""
    tags = {b"wtpt": _xyz([0.9642, 1.0, 0.8249]), b"cprt": b"text\0\0\0\0none\0"} | tags
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", len(description) + 1) + description + bytes(79)
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    fixed = struct.pack(">I4xI", start + len(body), 0x02100000) + b"mntr" + space + b"XYZ "
    fixed += (
        struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    )
    return fixed + bytes(128 - len(fixed)) + table + body


def cmyk_to_srgb(image: Image.Image, profile: bytes | None) -> Rgb:
    """A CMYK picture's pixels in sRGB, converted by its profile if it has a usable one."""
    transform = _transform(profile, "CMYK") if profile else None
    return np.asarray(transform.apply(image) if transform is not None else image.convert("RGB"))


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion from a profile to sRGB; cached, as the images of one camera share their profile."""
    uncached_pixels = 0x0040  # cmsFLAGS_NOCACHE: without it a transform must not be shared by threads
    try:
        with quiet():
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            if source.profile.xcolor_space.strip() != _SPACES[mode] or "sRGB" in (
                source.profile.profile_description or ""
            ):
                return None
            return ImageCms.buildTransform(
                source,
                ImageCms.createProfile("sRGB"),
                mode,
                "RGB",
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                ImageCms.Flags(uncached_pixels) | ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
