"""Overlap of a binary mask with the expert's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def jaccard(predicted: Mask, truth: Mask) -> float:
    """Intersection over union of two boolean masks of one shape, 0 to 1; 1 where both are empty."""
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else 1.0


def dice(predicted: Mask, truth: Mask) -> float:
    """Twice the intersection over the sum of areas, 0 to 1; 1 where both are empty."""
    total = np.count_nonzero(predicted) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(predicted & truth) / total if total else 1.0
