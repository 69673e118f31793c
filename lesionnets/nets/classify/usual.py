"""How far a picture is from usual ones, judged by a network's features.

After Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
NeurIPS 2018, sections 2.1 and 2.2: Mahalanobis distances at several depths of the network
(https://arxiv.org/abs/1807.03888). Three things are simpler than in the paper. There is one mean for all classes,
because skin is told from everything else and not one diagnosis from another. Covariances are diagonal at shallow
depths, because full ones mistake other cameras for something else. And each distance is divided by its own limit
and the largest counts, where the paper learns weights from examples of unusual pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LEAST = 0.02
"""Added to the standard deviations, so that a trait that hardly varies cannot decide alone."""

SHRINKAGE = 0.3
"""Share of the identity in the last depth's covariance (Ledoit and Wolf, J. Multivariate Analysis 88, 2004)."""

_MARGIN = 1.02
"""Limits as a multiple of the largest distance: training the purifier further moves lesions' distances by some
thousandths."""


class Usual(nn.Module):
    """Distance of a picture's traits from those of usual pictures.

    At the last depth, the covariance is modelled by a few principal directions and is the same in all others
    (Tipping and Bishop, "Probabilistic Principal Component Analysis", J. R. Statist. Soc. B 61, 1999).

    Args:
        sizes: Number of traits at each depth.
        directions: Number of principal directions at the last depth.

    Attributes:
        mean: Float [F], where F is the sum of ``sizes``.
        spread: Float [F]: standard deviations of usual pictures, plus a small constant.
        directions: Float [size of the last depth, directions]: the directions in which usual pictures differ most.
            The longer one is, the less a difference along it counts.
        limits: Float [depths]: distances up to which a picture is usual.

    Shape:
        traits float [N, F] -> float [N, 1], >= 0; a picture with more than 1 is unusual.
    """

    mean: Tensor
    spread: Tensor
    directions: Tensor
    limits: Tensor

    def __init__(self, sizes: Sequence[int], directions: int) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.register_buffer("mean", torch.zeros(sum(sizes)))
        self.register_buffer("spread", torch.ones(sum(sizes)))
        self.register_buffer("directions", torch.zeros(sizes[-1], directions))
        self.register_buffer("limits", torch.ones(len(sizes)))

    def distances(self, traits: Tensor) -> Tensor:
        """Root mean square distance of the traits from the mean at each depth, float [N, depths]."""
        apart = (traits - self.mean) / self.spread
        *shallow, last = torch.split(apart, self.sizes, dim=1)
        explained = (last @ self.directions).square().sum(dim=1)
        squares = [part.square().mean(dim=1) for part in shallow]
        squares.append((last.square().sum(dim=1) - explained) / self.sizes[-1])
        return torch.stack(squares, dim=1).clamp_min(0).sqrt()

    def fit(self, traits: Tensor, others: Tensor) -> None:
        """Compute means and covariances from usual pictures, and limits from others.

        Args:
            traits: Float [N, F], of usual pictures; more pictures than directions.
            others: Float [M, F], of usual pictures that no weight was fitted to; the limits hold all of them.
        """
        self.mean.copy_(traits.mean(dim=0))
        self.spread.copy_(traits.std(dim=0, correction=0) + LEAST)
        last = ((traits - self.mean) / self.spread)[:, -self.sizes[-1] :]
        self.directions.copy_(_directions(last, self.directions.shape[1]))
        self.limits.copy_(_MARGIN * self.distances(others).amax(dim=0))

    def forward(self, traits: Tensor) -> Tensor:
        """See the class."""
        return (self.distances(traits) / self.limits).amax(dim=1, keepdim=True)


def _directions(apart: Tensor, count: int) -> Tensor:
    """Principal directions [F, count] of deviations [N, F]; the more variance along one, the longer it is.

    Its length is sqrt(1 - e / v), with its own variance v and the variance e of all directions that are left.
    """
    _, scales, rows = torch.linalg.svd(apart, full_matrices=False)
    variances = scales.square() / len(apart)
    even = (variances.sum() - variances[:count].sum()) / max(apart.shape[1] - count, 1)
    first, even = ((1 - SHRINKAGE) * value + SHRINKAGE for value in (variances[:count], even))
    found: Tensor = rows[:count].T * (1 - even / first).clamp_min(0).sqrt()
    return found
