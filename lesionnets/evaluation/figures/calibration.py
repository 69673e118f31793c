"""Whether probabilities mean what they say: of cases with 70 %, seven in ten should be true.

Expected calibration error (Naeini et al., AAAI 2015; Guo et al., ICML 2017, equation 3) with 15 bins of equal
width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lesionnets.evaluation.figures.intervals import Figure, Weights
from lesionnets.evaluation.figures.overlap import Mask

BINS = 15


def pixel_gaps(probability: npt.NDArray[np.uint8], truth: Mask) -> npt.NDArray[np.float64]:
    """What one image adds to the calibration error of pixels' probabilities.

    For each bin, the sum of probability minus truth over its pixels, divided by the number of all pixels.

    Args:
        probability: [H, W] uint8, probability x 255.
        truth: [H, W].

    Returns:
        [BINS], -1 to 1.
    """
    levels = np.arange(256) / 255
    pixels = np.bincount(probability.ravel(), minlength=256)
    lesion = np.bincount(probability[truth], minlength=256)
    gaps = (pixels * levels - lesion) / truth.size
    return np.asarray(np.bincount(bins_of(levels), gaps, minlength=BINS), np.float64)


def pixel_error(gaps: npt.NDArray[np.float64], weights: Weights) -> float:
    """Calibration error of all images' pixels, 0 to 1; images have the same weight whatever their sizes.

    Args:
        gaps: [N, BINS], a row from :func:`pixel_gaps` for each image.
        weights: [N].
    """
    return float(np.abs(weights @ gaps).sum() / weights.sum())


def bins_of(shares: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """The bins, 0 to ``BINS`` - 1, of shares from 0 to 1."""
    return np.minimum((np.asarray(shares) * BINS).astype(np.int64), BINS - 1)


def confidence_error(
    confidence: npt.NDArray[np.floating[Any]], is_right: npt.NDArray[np.bool_], weights: Weights
) -> float:
    """Calibration error of the likeliest class, 0 to 1.

    Args:
        confidence: [N] probability of the likeliest class.
        is_right: [N] whether it is the true class.
        weights: [N].
    """
    gaps = np.bincount(bins_of(confidence), weights * (confidence - is_right), minlength=BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def error_by_chance(confidence: npt.NDArray[np.floating[Any]], *, rounds: int = 1000, seed: int = 0) -> Figure:
    """Calibration error that a perfectly calibrated model of these confidences would show.

    With few images, each bin's share of right answers is off by chance, which always increases the sum. An error
    within this interval says nothing against the probabilities.

    Args:
        confidence: [N] probability of the likeliest class.
        rounds: How often answers are drawn, right as often as the probability says.
        seed: Seed of the draws.

    Returns:
        The mean of the draws, and the range of 95 % of them.
    """
    drawn = np.random.default_rng(seed).random((rounds, len(confidence))) < confidence
    ones = np.ones(len(confidence))
    errors = [confidence_error(confidence, is_right, ones) for is_right in drawn]
    low, high = np.percentile(errors, [2.5, 97.5])
    return Figure(float(np.mean(errors)), float(low), float(high))
