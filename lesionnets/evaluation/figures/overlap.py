"""Agreement of a binary mask with the expert's, pixel by pixel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

FAILED = 0.65
"""Jaccard below which the ISIC challenges since 2018 count a mask as failed, that is, as 0."""


def jaccard(predicted: Mask, truth: Mask) -> float:
    """Intersection over union of two boolean masks of the same shape, 0 to 1; 1 if both are empty."""
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else 1.0


def agreement(predicted: Mask, truth: Mask) -> dict[str, float]:
    """All figures of two boolean masks of the same shape, each from 0 to 1, the best; three counts are enough.

    Returns:
        ``jaccard``; ``jaccard_thresholded``, which is 0 where Jaccard is below ``FAILED``; ``dice``;
        ``precision``, the share of the predicted pixels that are lesion (0 where nothing is predicted and there is
        a lesion); ``recall``, the share of the lesion's pixels that are predicted, and the same by its medical
        name ``sensitivity`` (1 without a lesion); ``specificity``, the share of the other pixels that are not
        predicted (1 if there are none); ``accuracy``, the share of all pixels that are right.
    """
    both = np.count_nonzero(predicted & truth)
    found, real, pixels = np.count_nonzero(predicted), np.count_nonzero(truth), truth.size
    union = found + real - both
    overlap = both / union if union else 1.0
    recall = both / real if real else 1.0
    return {
        "jaccard": overlap,
        "jaccard_thresholded": overlap if overlap >= FAILED else 0.0,
        "dice": 2 * both / (found + real) if found + real else 1.0,
        "precision": both / found if found else float(real == 0),
        "recall": recall,
        "sensitivity": recall,
        "specificity": (pixels - union) / (pixels - real) if pixels > real else 1.0,
        "accuracy": (pixels - union + both) / pixels,
    }
