"""The preview of one image: small tiles side by side, made while everything is decoded anyway."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.images.fitting import can_halve, halved, tile_size
from dermbatch.images.lesion import border_zone
from dermbatch.records.marks import marked_jpeg

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]

TILE = 224
"""Side of a tile in pixels."""

_OUTLINE_RGB = (0, 230, 118)
_ZONE_RGB = (255, 160, 0)
_GROUND_RGB = 242
_JPEG_QUALITY = 82


def preview(
    original: Image,
    mask: Mask | None,
    purified: Image | None,
    enhanced: Image | None,
    border: npt.NDArray[np.uint8] | None = None,
) -> bytes:
    """Tiles in the order original, overlay, purified, enhanced; a missing one is left blank.

    Args:
        original: uint8 [H, W, 3] RGB.
        mask: uint8 [H, W], not 0 where lesion, drawn as an outline over the original.
        purified: uint8 [H, W, 3] RGB.
        enhanced: uint8 [h, w, 3] RGB.
        border: uint8 [h, w], a border map: the zone that it leaves open is tinted beneath the outline.

    Returns:
        A JPEG of 4 x ``TILE`` by ``TILE`` pixels.
    """
    small = _fit(original)
    overlay = None if mask is None else _outlined(small if border is None else _tinted(small, border), mask)
    tiles = [small, overlay, *(None if image is None else _fit(image) for image in (purified, enhanced))]
    strip = np.concatenate([_letterbox(tile) for tile in tiles], axis=1)
    _, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(strip, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    return marked_jpeg(encoded.tobytes())


def original_of(shown: bytes, height: int, width: int) -> Image | None:
    """The tile of the original in an earlier preview, from which a new one can be drawn without the source.

    Args:
        shown: What :func:`preview` made.
        height: Height of the source image.
        width: Width of the source image.

    Returns:
        uint8 [h, w, 3] RGB, the long side ``TILE``; none where it is no readable preview.
    """
    strip = cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_COLOR) if shown else None
    if strip is None or strip.shape != (TILE, 4 * TILE, 3):
        return None
    rows, columns = tile_size(height, width, TILE)
    top, left = (TILE - rows) // 2, (TILE - columns) // 2
    tile = strip[top : top + rows, left : left + columns]
    return np.asarray(cv2.cvtColor(tile, cv2.COLOR_BGR2RGB), np.uint8)


def _fit(image: Image) -> Image:
    """The image, its long side scaled to ``TILE``."""
    height, width = tile_size(image.shape[0], image.shape[1], TILE)
    # Halving as far as possible is faster than one long step.
    while can_halve(image.shape[0], image.shape[1], TILE):
        image = halved(image)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _outlined(small: Image, mask: Mask) -> Image:
    size = small.shape[1], small.shape[0]
    lesion = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(lesion, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(small.copy(), outlines, -1, _OUTLINE_RGB, 2, cv2.LINE_AA), np.uint8)


def _tinted(small: Image, border: npt.NDArray[np.uint8]) -> Image:
    made = small.copy()
    zone = border_zone(border, (small.shape[0], small.shape[1]))
    made[zone] = made[zone] // 2 + np.array(_ZONE_RGB, np.uint8) // 2
    return made


def _letterbox(tile: Image | None) -> Image:
    ground = np.full((TILE, TILE, 3), _GROUND_RGB, np.uint8)
    if tile is not None:
        height, width = tile.shape[:2]
        top, left = (TILE - height) // 2, (TILE - width) // 2
        ground[top : top + height, left : left + width] = tile
    return ground
