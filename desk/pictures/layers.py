"""The layers of an image's picture: how each is made from files. Runs in its own process (``decoder.py``)."""

from __future__ import annotations

from collections.abc import Collection

import cv2
import numpy as np
from numpy.typing import NDArray

from dermbatch.bounded.limits import announce
from dermbatch.errors import ObjectNotFound
from dermbatch.images.imagefile import read_image

_FILES: dict[str, tuple[str, ...]] = {
    "original": ("source",),
    "purified": ("purified.png",),
    "enhanced": ("enhanced.png",),
    "occlusions": ("source", "purified.png"),
    "saliency": ("saliency.png",),
}
_OUTLINED = "mask.png"

_OCCLUDED = (255, 64, 200)
_SALIENT_ALPHA = 200

Pixels = NDArray[np.uint8]


def layers_of(files: Collection[str]) -> list[str]:
    """The layers that can be made from an image's files, including its ``source``.

    Any other picture that a stage keeps in a record is a layer too, named after its file: ``border.png`` is
    ``border``.
    """
    known = [layer for layer, needed in _FILES.items() if set(needed) <= set(files)]
    spoken_for = {_OUTLINED, *(name for needed in _FILES.values() for name in needed)}
    others = sorted(
        name.removesuffix(".png") for name in files if name.endswith(".png") and name not in spoken_for
    )
    return [*known, *others]


def files_of(layer: str) -> tuple[str, ...]:
    """What a layer is made from: files of the image, and its source."""
    return _FILES.get(layer, (f"{layer}.png",))


def made(layer: str, files: dict[str, bytes], frame: int | None, max_pixels: int) -> Pixels:
    """A layer's pixels.

    Args:
        layer: Which.
        files: As :func:`files_of` says.
        frame: Which frame of the source, if it has several.
        max_pixels: Larger ones are refused.

    Returns:
        uint8 [H, W, 3] sRGB, or [H, W, 4] with opacity for what is laid over others.

    Raises:
        BadInput: If the source is not an image, as for workers.
        ObjectNotFound: If a file is damaged.
    """
    match layer:
        case "original":
            return read_image(files["source"], max_pixels=max_pixels, frame=frame).pixels
        case "occlusions":
            original = read_image(files["source"], max_pixels=max_pixels, frame=frame).pixels
            return _where_different(original, _decoded(files["purified.png"], cv2.IMREAD_COLOR))
        case "purified" | "enhanced":
            return _colours(_decoded(files[f"{layer}.png"], cv2.IMREAD_COLOR))
    return _map(_decoded(files[f"{layer}.png"], cv2.IMREAD_UNCHANGED))


def outline(mask: bytes) -> list[list[list[int]]]:
    """Outlines of a mask's parts and holes: closed lines of (x, y) through pixels' centres."""
    found, _ = cv2.findContours(_decoded(mask, cv2.IMREAD_GRAYSCALE), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0, :].tolist() for contour in found]


def _where_different(original: Pixels, purified: Pixels) -> Pixels:
    bgr = cv2.cvtColor(original, cv2.COLOR_RGB2BGR)
    shown = np.zeros((*original.shape[:2], 4), np.uint8)
    if bgr.shape == purified.shape:
        shown[(bgr != purified).any(axis=2)] = (*_OCCLUDED, 255)
    return shown


def _map(pixels: Pixels) -> Pixels:
    """A map of values as a heat map; one already in colours stays as it is."""
    if pixels.ndim == 2:
        return _heat(pixels)
    return (
        _colours(pixels)
        if pixels.shape[2] == 3
        else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA), np.uint8)
    )


def _colours(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _heat(salient: Pixels) -> Pixels:
    """Saliency 0 to 255 as colours, with an opacity that grows with it."""
    colours = cv2.cvtColor(cv2.applyColorMap(salient, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    alpha = (salient.astype(np.uint16) * _SALIENT_ALPHA // 255).astype(np.uint8)
    return np.dstack([colours, alpha])


def _decoded(body: bytes, flags: int) -> Pixels:
    # Width and height, as a PNG file's header has them.
    announce(int.from_bytes(body[16:20], "big") * int.from_bytes(body[20:24], "big"))
    pixels = cv2.imdecode(np.frombuffer(body, np.uint8), flags) if body else None
    if pixels is None:
        raise ObjectNotFound("a file of this image is damaged; submit the image again to create it again")
    return np.asarray(pixels, np.uint8)
