"""The lesion mask: from a network's small probability map to a clean mask of the image's own size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.5
"""Probability from which a pixel is lesion, if the model's parameters do not say."""
MIN_SHARE = 0.05
"""Specks smaller than this share of the largest lesion are dropped."""
MIN_FRACTION = 0.0002
"""Specks smaller than this share of the image are dropped."""
MOST = 1
"""Most lesions in a mask: a dermoscopic picture is taken of one, and experts outline one in each of ISIC
2017's."""
CENTRALITY = 0.2
"""Standard deviation, in sides of the picture, of the Gaussian weight that falls off from its centre."""

UNSURE = 0.25, 0.75
"""Probabilities between which a border map is undecided: there the lesion ends."""

Mask = NDArray[np.uint8]
"""[H, W]: 255 lesion, 0 skin."""
Flags = NDArray[np.bool_]
"""[H, W]: true where lesion."""
Contour = NDArray[np.int32]
"""[N, 1, 2]: (column, row) of the outermost lesion pixels, one after another."""


@dataclass(frozen=True)
class Lesions:
    """What a probability map shows.

    Attributes:
        mask: At the image's size, without holes and specks (see :func:`clean`).
        outlines: Outlines of each lesion in the mask.
        found: How many lesions there were to choose from.
    """

    mask: Mask
    outlines: list[Contour]
    found: int


def lesion_mask(
    probability: NDArray[np.uint8],
    size: tuple[int, int],
    *,
    threshold: float = THRESHOLD,
    min_share: float = MIN_SHARE,
    min_fraction: float = MIN_FRACTION,
    most: int = MOST,
) -> Lesions:
    """The lesions in a probability map, at the image's size.

    The map is interpolated before the threshold is applied, so the outline does not show the network's coarse
    pixels.

    Args:
        probability: [h, w] uint8, probability x 255, at the network's size.
        size: Height and width of the image.
        threshold: Probability, 0 to 1, from which a pixel is lesion.
        min_share: Specks smaller than this share of the largest lesion go.
        min_fraction: Specks smaller than this share of the image go.
        most: Most lesions to keep, above 0: those with the most :func:`evidence`.
    """
    height, width = size
    level = max(1, math.ceil(threshold * 255))
    enlarged = cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
    _, mask = cv2.threshold(enlarged, level - 1, 255, cv2.THRESH_BINARY)
    min_pixels = max(1.0, min_fraction * height * width)
    cleaned, outlines = clean(np.asarray(mask, np.uint8), min_share=min_share, min_pixels=min_pixels)
    if len(outlines) <= most:
        return Lesions(cleaned, outlines, len(outlines))
    kept = sorted(outlines, key=lambda outline: -evidence(np.asarray(enlarged, np.uint8), outline))[:most]
    return Lesions(drawn(kept, (height, width)), kept, len(outlines))


def evidence(probability: NDArray[np.uint8], outline: Contour) -> float:
    """How likely an outline is the lesion that the picture was taken of: large, sure and central.

    The sum of a map, [H, W] uint8, over the pixels on and inside the outline, each weighed by how close it is to
    the picture's centre: a dermatoscope is put on the lesion. docs/decisions/0024 says how this was chosen.
    """
    left, top, width, height = cv2.boundingRect(outline)
    inside = drawn([outline - np.array([left, top], np.int32)], (height, width)) > 0
    part = probability[top : top + height, left : left + width]
    rows = centrality(probability.shape[0])[top : top + height, None]
    columns = centrality(probability.shape[1])[None, left : left + width]
    return float(np.sum(part * rows * columns, where=inside))


def centrality(side: int) -> NDArray[np.float32]:
    """Weight of each row or column of a picture, [side]: 1 in the middle, falling off as a Gaussian."""
    place = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    return np.asarray(np.exp(-((place / CENTRALITY) ** 2) / 2), np.float32)


def drawn(outlines: Sequence[Contour], size: tuple[int, int]) -> Mask:
    """The mask of outlines, filled."""
    mask = np.zeros(size, np.uint8)
    cv2.drawContours(mask, list(outlines), -1, (255,), cv2.FILLED)
    return mask


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
    return drawn(kept, (mask.shape[0], mask.shape[1])), kept


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


def dice(one: Mask | Flags, other: Mask | Flags) -> float:
    """2 |A and B| / (|A| + |B|) of two masks of one size, 0 to 1; 1 where both are empty (Dice 1945).

    Args:
        one: uint8 or bool [H, W], not 0 where lesion.
        other: Likewise.
    """
    total = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * int(np.count_nonzero((one != 0) & (other != 0))) / total if total else 1.0


def border_zone(border: NDArray[np.uint8], size: tuple[int, int]) -> Flags:
    """Where a border map leaves open whether there is lesion: the more blurred the edge, the wider.

    Args:
        border: [h, w], probability x 255 from the output that judges borders.
        size: Height and width wanted.

    Returns:
        [H, W]; all false if the map decides everywhere.
    """
    large = cv2.resize(border, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray((large > 255 * UNSURE[0]) & (large < 255 * UNSURE[1]), np.bool_)
