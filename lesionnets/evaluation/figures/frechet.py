"""How far apart two sets of pictures are in a network's features: distance, precision and recall."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

Features = npt.NDArray[np.float64]
"""[N, D]: a row for each picture."""


def frechet_distance(one: Features, other: Features) -> float:
    """Distance of two normal distributions with the sets' means and covariances (Heusel et al., NeurIPS 2017).

    It is larger for fewer pictures, whatever they show, so compare only sets of the same size.
    """
    means = one.mean(axis=0) - other.mean(axis=0)
    first, second = (np.atleast_2d(np.cov(values, rowvar=False)) for values in (one, other))
    root = _root(first)
    mixed = np.linalg.eigvalsh(root @ second @ root)
    traces = np.trace(first) + np.trace(second) - 2 * np.sqrt(mixed.clip(0)).sum()
    return float(means @ means + traces)


def _root(covariance: Features) -> Features:
    values, vectors = np.linalg.eigh(covariance)
    found: Features = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return found


def precision_and_recall(originals: Features, generated: Features, neighbours: int = 3) -> tuple[float, float]:
    """Share of generated pictures that could be originals, and of originals that could have been generated.

    A set's manifold is all points nearer to one of its pictures than this picture's k-th neighbour in the set
    (Kynkaanniemi et al., NeurIPS 2019, eq. 1 and 2).

    Args:
        originals: Features with more than ``neighbours`` rows.
        generated: Features with more than ``neighbours`` rows.
        neighbours: k.
    """
    between = cdist(originals, generated)
    near_originals = (between <= _radii(originals, neighbours)[:, None]).any(axis=0)
    near_generated = (between <= _radii(generated, neighbours)[None, :]).any(axis=1)
    return float(near_originals.mean()), float(near_generated.mean())


def _radii(values: Features, neighbours: int) -> Features:
    apart = np.sort(cdist(values, values), axis=1)
    found: Features = apart[:, min(neighbours, len(values) - 1)]
    return found
