"""Patterns: clusters of lesions' local descriptors, what each adds to the diagnoses, and how stable they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score

from dermbatch.errors import UsageError
from lesionnets.evaluation.discovery.described import Described, Floats

Assigned = npt.NDArray[np.int64]
"""[N, P]: the pattern of each place; -1 outside the lesion."""

_TRIES = 4


@dataclass(frozen=True)
class Clusters:
    """Clusters of descriptors, the most frequent first.

    Attributes:
        centres: Float32 [K, D], of length 1.
        assigned: The pattern of each place.
        near: Float32 [N, P]: cosine of each place with its pattern's centre; -1 outside the lesion.
    """

    centres: Floats
    assigned: Assigned
    near: Floats

    def shares(self) -> Floats:
        """Float32 [N, K]: the share of each pattern in each picture's lesion."""
        counts = np.stack([(self.assigned == pattern).sum(axis=1) for pattern in range(len(self.centres))], axis=1)
        return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), np.float32)

    def adds(self, described: Described) -> Floats:
        """Float32 [N, K + 1, classes]: what each pattern adds to each diagnosis, and last the outside.

        This is exact: the sum over the patterns and the outside is the centred logits minus the bias
        (:class:`~lesionnets.nets.classify.pattern_classifier.PatternClassifier`).
        """
        rows = [
            (described.adds * (self.assigned == pattern)[:, :, None]).sum(axis=1)
            for pattern in (*range(len(self.centres)), -1)
        ]
        return np.stack(rows, axis=1)


def discover(described: Described, count: int, seed: int) -> Clusters:
    """Find ``count`` patterns among the places of lesions, by k-means.

    Args:
        described: The pictures.
        count: Number of patterns, K.
        seed: Seed of the first centres.

    Raises:
        UsageError: If the lesions have fewer places than patterns are asked for.
    """
    lesion = described.places[described.inside]
    if len(np.unique(lesion, axis=0)) < count:
        raise UsageError(
            f"the lesions have {len(lesion)} places in all: that is too few for {count} patterns; ask for fewer"
        )
    found = KMeans(count, n_init=_TRIES, random_state=seed).fit(lesion)
    order = np.argsort(-np.bincount(found.labels_, minlength=count), kind="stable")
    centres = found.cluster_centers_[order]
    centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-9)
    assigned = np.full(described.inside.shape, -1)
    assigned[described.inside] = np.argsort(order)[found.labels_]
    near = np.full(described.inside.shape, -1, np.float32)
    near[described.inside] = (lesion * centres[assigned[described.inside]]).sum(axis=1)
    return Clusters(np.asarray(centres, np.float32), assigned, near)


@dataclass(frozen=True)
class Agreement:
    """How similar two clusterings of the same places are.

    Attributes:
        overlaps: Float64 [K]: for each pattern of the first, the Jaccard index of its places with those of its
            match; each has another match (Hungarian method).
        chance: Mean of the overlaps if the places of one are shuffled among its patterns.
        information: Adjusted mutual information (Vinh et al., JMLR 11, 2010): 0 by chance, 1 if they are the same.
    """

    overlaps: npt.NDArray[np.float64]
    chance: float
    information: float

    @property
    def overlap(self) -> float:
        """Mean over the patterns."""
        return float(self.overlaps.mean())


def agreement(one: Clusters, other: Clusters, *, seed: int = 0) -> Agreement:
    """How similar two networks' patterns are on the same pictures, on the places that both count as lesion.

    Raises:
        UsageError: If their places differ in size, or they share none.
    """
    if one.assigned.shape != other.assigned.shape:
        raise UsageError("only networks of the same size can be compared; these have different places")
    both = (one.assigned >= 0) & (other.assigned >= 0)
    first, second = one.assigned[both], other.assigned[both]
    count = max(len(one.centres), len(other.centres))
    shuffled = np.random.default_rng(seed).permutation(second)
    return Agreement(
        _matched(first, second, count)[: len(one.centres)],
        float(_matched(first, shuffled, count)[: len(one.centres)].mean()),
        float(adjusted_mutual_info_score(first, second)),
    )


def _matched(first: Assigned, second: Assigned, count: int) -> npt.NDArray[np.float64]:
    """Jaccard index [K] of each pattern and its match."""
    shared = np.bincount(first * count + second, minlength=count * count).reshape(count, count).astype(float)
    either = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True) - shared
    overlaps = shared / np.maximum(either, 1)
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    return np.asarray(overlaps[rows, columns])
