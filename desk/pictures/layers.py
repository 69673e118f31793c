"""The layers of an image's picture: how each is made of files. Runs in a process of its own (``decoder.py``)."""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from dermbatch.bounded.limits import claim
from dermbatch.errors import ObjectNotFound
from dermbatch.images.imagefile import read_image

Layer = Literal["original", "purified", "enhanced", "occlusions", "saliency"]
LAYERS: tuple[Layer, ...] = get_args(Layer)

FILES: dict[Layer, tuple[str, ...]] = {
    "original": ("source",),
    "purified": ("purified.png",),
    "enhanced": ("enhanced.png",),
    "occlusions": ("source", "purified.png"),
    "saliency": ("saliency.png",),
}
"""What each layer is made of: files of the image, and its source."""

_OCCLUDED = (255, 64, 200)
_SALIENT_ALPHA = 200

Pixels = NDArray[np.uint8]


def made(layer: Layer, files: dict[str, bytes], frame: int | None, max_pixels: int) -> Pixels:
    """A layer's pixels.

    Args:
        layer: Which.
        files: As :data:`FILES` says.
        frame: Of the source, where it has several.
        max_pixels: Larger ones are refused.

    Returns:
        uint8 [H, W, 3] sRGB, or [H, W, 4] with opacity for what is laid over others.

    Raises:
        BadInput: Where the source is no image, as for workers.
        ObjectNotFound: Where a file is damaged.
    """
    match layer:
        case "original":
            return read_image(files["source"], max_pixels=max_pixels, frame=frame).pixels
        case "occlusions":
            original = read_image(files["source"], max_pixels=max_pixels, frame=frame).pixels
            return _where_different(original, _decoded(files["purified.png"], cv2.IMREAD_COLOR))
        case "saliency":
            return _heat(_decoded(files["saliency.png"], cv2.IMREAD_GRAYSCALE))
    return np.asarray(cv2.cvtColor(_decoded(files[f"{layer}.png"], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def outline(mask: bytes) -> list[list[list[int]]]:
    """Outlines of a mask's parts, holes too: closed lines of (x, y), at the corners of pixels' centres."""
    found, _ = cv2.findContours(_decoded(mask, cv2.IMREAD_GRAYSCALE), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0, :].tolist() for contour in found]


def _where_different(original: Pixels, purified: Pixels) -> Pixels:
    bgr = cv2.cvtColor(original, cv2.COLOR_RGB2BGR)
    shown = np.zeros((*original.shape[:2], 4), np.uint8)
    if bgr.shape == purified.shape:
        shown[(bgr != purified).any(axis=2)] = (*_OCCLUDED, 255)
    return shown


def _heat(salient: Pixels) -> Pixels:
    """Saliency 0 to 255 as colours, with an opacity that grows with it."""
    colours = cv2.cvtColor(cv2.applyColorMap(salient, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    alpha = (salient.astype(np.uint16) * _SALIENT_ALPHA // 255).astype(np.uint8)
    return np.dstack([colours, alpha])


def _decoded(body: bytes, flags: int) -> Pixels:
    claim(int.from_bytes(body[16:20], "big") * int.from_bytes(body[20:24], "big"))  # as a PNG file's header has it
    pixels = cv2.imdecode(np.frombuffer(body, np.uint8), flags) if body else None
    if pixels is None:
        raise ObjectNotFound("a file of this image is damaged: give the image once more, and it is made anew")
    return np.asarray(pixels, np.uint8)
