"""The size at which an image goes to a model, and back: a network never has to know the image's own size."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

LONG_SIDE = 1024
"""Pixels to which the long side is reduced if the model takes any size and its parameters do not say."""

DIFFERENCE = 6
"""Least difference of green to the clean picture, of 255, at which a pixel of an image is replaced."""

COVERED = 0.5
"""Probability from which something lies over a pixel, if the model's parameters do not say."""

_STRIP = 64

Pixels = NDArray[np.uint8]


def sent_size(image_size: tuple[int, int], height: int, width: int, long_side: int) -> tuple[int, int]:
    """Height and width at which an image is sent to a model; see :mod:`dermbatch.models.contracts`.

    Args:
        image_size: Height and width that the model takes; -1 if any will do.
        height: Height of the image in pixels.
        width: Likewise.
        long_side: Most pixels of the long side if any size will do.
    """
    scale = min(1.0, long_side / max(height, width))
    fixed_height, fixed_width = image_size
    return (
        fixed_height if fixed_height > 0 else max(1, round(height * scale)),
        fixed_width if fixed_width > 0 else max(1, round(width * scale)),
    )


def fit(image: Pixels, size: tuple[int, int]) -> Pixels:
    """An image or map at another size.

    It is halved as often as possible, and interpolated from there: OpenCV halves 24 megapixels in 7 ms, while
    averaging over fractions of pixels (INTER_AREA) takes 55 ms. Halving drops an odd last row or column, which
    moves nothing by more than one pixel of the halved picture.

    Args:
        image: [H, W] or [H, W, 3] uint8.
        size: Height and width wanted.

    Returns:
        The image itself if it has that size already.
    """
    while image.shape[0] >= 2 * size[0] and image.shape[1] >= 2 * size[1]:
        image = halved(image)
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.uint8)


def halved(image: Pixels) -> Pixels:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    even = image[: 2 * height, : 2 * width]
    return np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def tile_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width of an image whose long side is brought to ``side``, halved first as far as that goes.

    A preview's tiles have this size (``workers/image/preview.py``); code that cuts one out of its square asks
    here, too.

    Args:
        height: Height of the image in pixels.
        width: Likewise.
        side: Side of the square tile.
    """
    while can_halve(height, width, side):
        height, width = height // 2, width // 2
    scale = side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def can_halve(height: int, width: int, side: int) -> bool:
    """Whether an image on its way to a tile is halved once more."""
    return max(height, width) >= 2 * side and min(height, width) >= 2


def brought_back(
    image: Pixels, clean: Pixels, occlusion: Pixels, *, level: int, difference: int = DIFFERENCE
) -> tuple[Pixels, int]:
    """A smaller clean picture, put into the image wherever its map says so.

    Args:
        image: [H, W, 3].
        clean: [h, w, 3], what the model made of it.
        occlusion: [h, w], probability x 255 that something lies over a pixel.
        level: Probability x 255 from which a pixel is replaced.
        difference: Least difference of green between a pixel and its replacement: at full resolution a hair is
            thinner than its trace in the small map.

    Returns:
        The picture, and how many of its pixels were replaced.
    """
    height, width = image.shape[:2]
    likely = cv2.resize(occlusion, (width, height), interpolation=cv2.INTER_LINEAR)
    fill = cv2.resize(clean, (width, height), interpolation=cv2.INTER_LINEAR)
    purified = image.copy()
    pixels = 0
    # Occlusions are few and thin: strips without any cost only one look.
    for top in range(0, height, _STRIP):
        rows = slice(top, top + _STRIP)
        _, mask = cv2.threshold(likely[rows], level - 1, 255, cv2.THRESH_BINARY)
        if not mask.any():
            continue
        apart = cv2.absdiff(
            cv2.extractChannel(image[rows], 1),
            cv2.extractChannel(fill[rows], 1),
        )
        mask[apart < difference] = 0
        pixels += cv2.countNonZero(mask)
        cv2.copyTo(fill[rows], mask, purified[rows])
    return purified, pixels
