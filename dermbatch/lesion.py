"""The lesion mask: from a network's small probability map to a clean mask of the image's own size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.5
"""Probability from which a pixel is lesion, where the model's parameters say nothing."""
MIN_SHARE = 0.05
"""Specks smaller than this share of the largest lesion are dropped."""
MIN_FRACTION = 0.0002
"""Specks smaller than this share of the image are dropped."""

Mask = NDArray[np.uint8]
"""[H, W]: 255 lesion, 0 skin."""
Contour = NDArray[np.int32]
"""[N, 1, 2]: (column, row) of the outermost lesion pixels, one after another."""


def lesion_mask(
    probability: NDArray[np.uint8],
    size: tuple[int, int],
    *,
    threshold: float = THRESHOLD,
    min_share: float = MIN_SHARE,
    min_fraction: float = MIN_FRACTION,
) -> tuple[Mask, list[Contour]]:
    """The lesions in a probability map, at the image's size.

    The map is interpolated before it is cut, so the outline does not show the network's coarse pixels.

    Args:
        probability: [h, w] uint8, probability x 255, at the network's size.
        size: Height and width of the image.
        threshold: Probability, 0 to 1, from which a pixel is lesion.
        min_share: Specks smaller than this share of the largest lesion go.
        min_fraction: Specks smaller than this share of the image go.

    Returns:
        Mask of that size, and the outline of each lesion in it; see :func:`clean`.
    """
    height, width = size
    level = max(1, math.ceil(threshold * 255))
    enlarged = cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
    _, mask = cv2.threshold(enlarged, level - 1, 255, cv2.THRESH_BINARY)
    return clean(
        np.asarray(mask, np.uint8), min_share=min_share, min_pixels=max(1.0, min_fraction * height * width)
    )


def clean(mask: Mask, *, min_share: float, min_pixels: float) -> tuple[Mask, list[Contour]]:
    """Fill holes and drop specks (Bisla 3.4).

    A hole is background that does not reach the frame. Lesions are 8-connected.

    Args:
        mask: [H, W] uint8, not zero where lesion.
        min_share: Specks smaller than this share of the largest lesion go, 0 to 1.
        min_pixels: Specks of fewer pixels go, counted with their holes filled.

    Returns:
        The cleaned mask, and the outline of each lesion in it, the largest first.
    """
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outlines = [np.asarray(contour, np.int32) for contour in found]
    sized = sorted(((filled_pixels(outline), outline) for outline in outlines), key=lambda pair: -pair[0])
    least = max(min_pixels, min_share * sized[0][0]) if sized else 0.0
    kept = [outline for pixels, outline in sized if pixels >= least]
    cleaned = np.zeros(mask.shape, np.uint8)
    cv2.drawContours(cleaned, kept, -1, (255,), cv2.FILLED)
    return cleaned, kept


def filled_pixels(contour: Contour) -> float:
    """Pixels on and inside an outline: Pick's theorem on the polygon through the pixels' centres."""
    return float(cv2.contourArea(contour)) + len(contour) / 2 + 1


def touches_frame(mask: Mask) -> bool:
    """Whether a lesion reaches the image's edge, so that part of it may lie outside."""
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def bounding_box(contours: Sequence[Contour]) -> tuple[int, int, int, int]:
    """Top, left, bottom, right (half open) of all outlines together."""
    left, top, width, height = cv2.boundingRect(np.concatenate(contours))
    return top, left, top + height, left + width
