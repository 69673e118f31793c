"""Bootstrap intervals: how far a figure over images can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float64]
"""[N]: how often each image was drawn."""

_AT_ONCE = 1 << 20  # images drawn in one step of the bootstrap: 16 MB, however many there are


@dataclass(frozen=True)
class Figure:
    """A figure over images with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_mean(values: Sequence[float], *, rounds: int = 2000, seed: int = 0) -> Figure:
    """Mean of one value per image, and its 95 % percentile bootstrap interval (Efron and Tibshirani 1993, ch. 13).

    With the same seed, two columns of values for the same images are drawn alike, so the mean of their differences
    has the interval of a paired comparison.

    Raises:
        ValueError: If there is no value.
    """
    if len(values) == 0:
        raise ValueError("a mean needs at least one value")
    array = np.asarray(values, dtype=np.float64)
    random, count = np.random.default_rng(seed), len(array)
    step = max(1, _AT_ONCE // count)
    parts = [min(step, rounds - done) for done in range(0, rounds, step)]
    means = np.concatenate([array[random.integers(0, count, (part, count))].mean(axis=1) for part in parts])
    return interval(float(array.mean()), means)


def bootstrap(
    figures: Callable[[Weights], Mapping[str, float]],
    count: int,
    *,
    strata: Sequence[int] | npt.NDArray[np.int64] | None = None,
    rounds: int = 1000,
    seed: int = 0,
) -> dict[str, Figure]:
    """Figures that are not means over images, with 95 % percentile bootstrap intervals.

    Args:
        figures: Function from how often each image counts [N] to figures by name, with the same names for all
            weights.
        count: Number of images, N.
        strata: Group of each image. Images are drawn within each group, so that none vanishes and the groups'
            shares stay the same (Davison and Hinkley 1997, section 3.2).
        rounds: Number of bootstrap resamplings.
        seed: Seed of the draws. With the same seed, count and strata the draws are the same, so that models are
            compared image by image.
    """
    random = np.random.default_rng(seed)
    groups = np.zeros(count, np.int64) if strata is None else np.asarray(strata)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    whole = figures(np.ones(count))
    drawn: dict[str, list[float]] = {name: [] for name in whole}
    for _ in range(rounds):
        chosen = np.concatenate([group[random.integers(0, len(group), len(group))] for group in members])
        for name, value in figures(np.bincount(chosen, minlength=count).astype(np.float64)).items():
            drawn[name].append(value)
    return {name: interval(value, drawn[name]) for name, value in whole.items()}


def interval(value: float, drawn: Sequence[float] | npt.NDArray[np.float64]) -> Figure:
    """A figure with the 2.5 % and 97.5 % quantiles of the resamplings."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Figure(value, float(low), float(high))


def flat(figures: Mapping[str, Figure]) -> dict[str, float]:
    """Figures as a checkpoint holds them: ``x``, ``x_low`` and ``x_high``."""
    return {
        name + end: value
        for name, figure in figures.items()
        for end, value in (("", figure.mean), ("_low", figure.low), ("_high", figure.high))
    }
