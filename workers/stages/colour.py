"""Colours of the lesion and of the skin around it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dermbatch.images.lesion import Contour, Mask, bounding_box
from dermbatch.records.outcome import ColourStatistics

ABCD_COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (235, 230, 225),
    "red": (185, 60, 60),
    "light brown": (175, 120, 85),
    "dark brown": (100, 60, 40),
    "blue-grey": (95, 105, 125),
    "black": (35, 28, 28),
}
"""The six colours that the ABCD rule of dermatoscopy counts (Stolz et al. 1994), each with an sRGB value for it.

The rule only names the colours; these values are our choice. A pixel has the colour that is nearest in CIELAB.
"""

COLOUR_SHARE = 0.05
"""A colour is present if it covers at least this share of the lesion."""

_SAMPLES = 20_000  # pixels that are sampled: statistics need no more, however large the image
_DARK = 50  # the brightest channel of vignette and frame is below this


def colour_statistics(image: NDArray[np.uint8], mask: Mask, contours: Sequence[Contour]) -> ColourStatistics:
    """Measure the colours inside a mask and around it.

    Args:
        image: [H, W, 3] uint8, sRGB.
        mask: [H, W] uint8, 255 where lesion; not empty.
        contours: Its outlines.

    Returns:
        Mean and spread of the lesion's colour, mean of the skin's (none where no skin is to be seen), and the
        count of :data:`ABCD_COLOURS` that are present.
    """
    top, left, bottom, right = bounding_box(contours)
    height, width = mask.shape
    margin = max(bottom - top, right - left) // 4 + 1
    rows = slice(max(0, top - margin), min(height, bottom + margin))
    columns = slice(max(0, left - margin), min(width, right + margin))
    near = mask[rows, columns]
    step = max(1, math.isqrt(near.size // _SAMPLES))
    pixels, lesion = image[rows, columns][::step, ::step], near[::step, ::step] > 0
    if not lesion.any():  # thinner than the step
        pixels, lesion = image[rows, columns], near > 0
    inside = pixels[lesion].astype(np.float32)
    # The border zone belongs to neither: it shades from one to the other.
    zone = max(3, 2 * round(margin / (4 * step)) + 1)
    wide = cv2.dilate(lesion.astype(np.uint8), np.ones((zone, zone), np.uint8)) > 0
    outside = pixels[~wide & (pixels.max(axis=2) >= _DARK)].astype(np.float32)
    return ColourStatistics(
        mean_rgb=_triple(inside.mean(axis=0)),
        std_rgb=_triple(inside.std(axis=0)),
        skin_mean_rgb=_triple(outside.mean(axis=0)) if len(outside) else None,
        colours=count_colours(inside),
    )


def count_colours(pixels: NDArray[np.float32]) -> int:
    """How many of :data:`ABCD_COLOURS` are present among pixels ([N, 3], sRGB, 0 to 255)."""
    known = _lab(np.array(list(ABCD_COLOURS.values()), np.float32))
    seen = _lab(pixels)
    # |a - b|^2 without |a|^2, which is the same for every b
    nearest = np.argmin((known**2).sum(axis=1) - 2 * seen @ known.T, axis=1)
    shares = np.bincount(nearest, minlength=len(known)) / len(pixels)
    return int(np.count_nonzero(shares >= COLOUR_SHARE))


def _lab(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(pixels[:, None, :] / np.float32(255), cv2.COLOR_RGB2LAB)[:, 0], np.float32)


def _triple(values: NDArray[np.float32]) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 2) for value in values)
    return red, green, blue
