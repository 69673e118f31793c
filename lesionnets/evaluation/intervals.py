"""Bootstrap intervals: how far a mean over images can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Figure:
    """A mean over images with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_mean(values: Sequence[float], *, rounds: int = 2000, seed: int = 0) -> Figure:
    """Mean of one value an image and its 95 % percentile bootstrap interval (Efron and Tibshirani 1993, ch. 13).

    Raises:
        ValueError: Where there is no value.
    """
    if len(values) == 0:
        raise ValueError("a mean needs at least one value")
    array = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(array), size=(rounds, len(array)))
    means = array[draws].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Figure(float(array.mean()), float(low), float(high))
