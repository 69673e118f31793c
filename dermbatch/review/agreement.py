"""How far two readers agree: their outlines, and their labels beyond chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.images.lesion import Mask

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Cohen's kappa of two readers' labels of the same images (Cohen 1960): (p_o - p_e) / (1 - p_e), -1 to 1.

    Returns:
        None where it is undefined: without images, or where both gave all of them one and the same label.

    Raises:
        ValueError: Where they are not of as many images.
    """
    count = len(first)
    if count != len(second):
        raise ValueError("two readers' labels are of the same images")
    if count == 0:
        return None
    ones, others = Counter(first), Counter(second)
    chance = sum(ones[label] * others[label] for label in ones) / count**2
    if chance == 1:
        return None
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / count
    return (observed - chance) / (1 - chance)


def boundary_distances(one: Mask, other: Mask) -> tuple[float, float] | None:
    """How far two outlines are from each other: the mean symmetric and the 95 % Hausdorff distance, in pixels.

    Of each pixel of an outline the distance to the nearest of the other's (Euclidean, exact); their mean over both
    outlines together, and the larger of the two directions' 95th percentiles (linear), as ``lesionnets evaluate``
    has it. A pixel is of the outline where one of its four neighbours is outside of the mask or of the picture.

    Returns:
        None where one mask is empty: there is no distance to nothing.
    """
    outlines = [_outline(mask) for mask in (one, other)]
    if not all(outline.any() for outline in outlines):
        return None
    first, second = (_distance_to(outline) for outline in outlines)
    there, back = second[outlines[0]], first[outlines[1]]
    farthest = max(np.percentile(there, 95), np.percentile(back, 95))
    return float(np.concatenate([there, back]).mean()), float(farthest)


def _outline(mask: Mask) -> npt.NDArray[np.bool_]:
    inside = cv2.erode(mask, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    found: npt.NDArray[np.bool_] = (mask != 0) & (inside == 0)
    return found


def _distance_to(outline: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Of each pixel to the nearest of an outline that is not empty."""
    found = cv2.distanceTransform(np.where(outline, 0, 255).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(found, np.float32)
