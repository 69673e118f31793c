"""Pixels of files that Pillow opened: by its strict decoders, or by OpenCV for 16-bit PNG, which it truncates."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageChops

from dermbatch.errors import BadInput
from dermbatch.images.formats.chunks import chunks_fit, rows_are_there
from dermbatch.images.formats.coded import stores_ink
from dermbatch.images.pixels import Rgb, cmyk_to_srgb, opencv_decode, over_white, to_eight_bit, used_bits

_DEEP = 16


def png_pixels(image: Image.Image, data: bytes, profile: bytes | None, notes: list[str]) -> Rgb:
    """Pixels of a PNG file; conversions are noted.

    Raises:
        BadInput: ``corrupt``, ``unsupported_format``.
        EOFError: If rows are missing.
    """
    if data[12:16] == b"CgBI":
        raise BadInput(
            "this is a PNG file in the form of Apple's applications (CgBI), which is not taken; re-save it",
            reason="unsupported_format",
        )
    bits = data[24]
    if bits == _DEEP:
        # OpenCV reserves memory for whatever chunk length a damaged PNG file states.
        if not chunks_fit(data):
            raise EOFError
        pixels = _deep(data, notes, image.info.get("transparency"))
    else:
        seen_through = image.info.get("transparency")
        if image.mode == "L" and bits < 8 and isinstance(seen_through, int):  # Pillow does not scale this one
            image.info["transparency"] = seen_through * 255 // ((1 << bits) - 1)
        pixels = by_pillow(image, profile, notes)
    if not rows_are_there(data):
        raise EOFError
    return pixels


def _deep(data: bytes, notes: list[str], transparent: object) -> Rgb:
    """Pixels of a 16-bit PNG file; a grey file may declare one value transparent, which OpenCV ignores."""
    pixels = opencv_decode(data, cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError("not decoded")
    if pixels.ndim == 2 and isinstance(transparent, int):
        seen = np.where(pixels == transparent, 0, 65535).astype(pixels.dtype)
        pixels = np.dstack([pixels, pixels, pixels, seen])
    if pixels.dtype == np.uint16:
        notes.append("from_16_bit")
        colours = pixels if pixels.ndim == 2 else pixels[..., :3]
        used = used_bits(colours, 16)
        if used != 16:
            notes.append("scaled_to_used_bits")
            alpha = to_eight_bit(pixels[..., 3:], 16) if pixels.ndim == 3 else None
            pixels = to_eight_bit(colours, used)
            pixels = pixels if alpha is None else np.concatenate([pixels, alpha], axis=-1)
        else:
            pixels = to_eight_bit(pixels, 16)
    if pixels.ndim == 2:
        notes.append("from_grey")
        return np.repeat(pixels[..., None], 3, axis=2)
    if pixels.shape[2] == 4:
        notes.append("from_rgba")
        return over_white(np.ascontiguousarray(pixels[..., :3]), pixels[..., 3])
    return pixels


def by_pillow(image: Image.Image, profile: bytes | None, notes: list[str], *, no_marker: bool = False) -> Rgb:
    """Pixels of any other file, by Pillow's strict decoders; conversions are noted.

    Args:
        image: As opened.
        profile: ICC profile, for CMYK.
        notes: Conversions are added.
        no_marker: Whether it is a CMYK JPEG file without the marker that Pillow takes for granted.

    Raises:
        BadInput: ``corrupt``, ``unsupported_format``.
    """
    image.load()
    mode = image.mode
    if mode == "P" and image.format in ("PNG", "BMP"):
        _check_palette(image)
    if mode == "RGB" and "transparency" not in image.info:
        return np.asarray(image)
    if mode == "CMYK":
        notes.append("from_cmyk")
        if no_marker and stores_ink(np.invert(np.asarray(image, np.uint8)[..., 3])):
            image = ImageChops.invert(image)
        return cmyk_to_srgb(image, profile)
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        notes.append("from_rgba")
        rgba = np.asarray(image.convert("RGBA"))
        return over_white(np.ascontiguousarray(rgba[..., :3]), rgba[..., 3])
    if mode == "I;16":  # JPEG 2000 of more than 8 bits
        notes += ["from_16_bit", "from_grey"]
        return np.repeat(to_eight_bit(np.asarray(image), 16)[..., None], 3, axis=2)
    if mode in ("L", "1"):
        notes.append("from_grey")
    elif mode == "P":
        notes.append("from_palette")
    elif mode not in ("YCbCr", "RGBX"):
        raise BadInput(
            f"images of mode {mode} are not taken; save it as 8 or 16 bit grey or RGB",
            reason="unsupported_format",
        )
    return np.asarray(image.convert("RGB"))


def _check_palette(image: Image.Image) -> None:
    """Refuse indices that the palette has no colour for: they would become black.

    Raises:
        BadInput: ``corrupt``.
    """
    order, entries = image.palette.getdata() if image.palette is not None else ("RGB", b"")
    if int(np.asarray(image).max()) >= len(entries) // len(order):
        raise BadInput(
            "pixels name colours that the palette does not have: the file is damaged; re-save the picture",
            reason="corrupt",
        )
