"""A picture in ever smaller sizes, each a plain array on disk from which tiles are cut."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from desk.problems import Problem

TILE = 512
"""Side of a tile in pixels; those at the right and at the bottom may be smaller."""

_QUALITY = 92

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pyramid:
    """A picture stored in a folder.

    Attributes:
        folder: With an array for each level.
        sizes: Height and width of each level: the picture's own first, then halves.
    """

    folder: Path
    sizes: tuple[tuple[int, int], ...]

    def tile(self, level: int, row: int, column: int) -> tuple[bytes, str]:
        """A tile and its media type: lossless at the picture's own size, nearly so at a smaller one.

        Raises:
            Problem: 404 if there is no such tile.
        """
        if not 0 <= level < len(self.sizes):
            raise Problem(404, "no_such_tile", f"the picture has {len(self.sizes)} levels")
        height, width = self.sizes[level]
        if not (0 <= row * TILE < height and 0 <= column * TILE < width):
            raise Problem(404, "no_such_tile", f"level {level} has {width} x {height} pixels")
        whole = np.load(self.folder / f"{level}.npy", mmap_mode="r", allow_pickle=False)
        cut = np.ascontiguousarray(whole[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE])
        return _encoded(cut, lossless=level == 0 or cut.shape[2] == 4)


def build(pixels: Pixels, folder: Path) -> None:
    """Write a picture's levels into a folder; ``levels.json`` comes last.

    Args:
        pixels: uint8 [H, W, 3] sRGB or [H, W, 4] with opacity.
        folder: Empty.
    """
    sizes = [pixels.shape[:2]]
    np.save(folder / "0.npy", pixels)
    while max(sizes[-1]) > TILE:
        height, width = ((side + 1) // 2 for side in sizes[-1])
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        np.save(folder / f"{len(sizes)}.npy", pixels)
        sizes.append((height, width))
    (folder / "levels.json").write_text(json.dumps(sizes))


def opened(folder: Path) -> Pyramid | None:
    """The picture in a folder; none if it is missing or incomplete."""
    try:
        sizes = json.loads((folder / "levels.json").read_text())
    except (OSError, ValueError):
        return None
    return Pyramid(folder, tuple((height, width) for height, width in sizes))


def _encoded(cut: Pixels, *, lossless: bool) -> tuple[bytes, str]:
    turned = cv2.cvtColor(cut, cv2.COLOR_RGB2BGR if cut.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    if lossless:
        _, body = cv2.imencode(".png", turned, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        return body.tobytes(), "image/png"
    _, body = cv2.imencode(".webp", turned, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    return body.tobytes(), "image/webp"
