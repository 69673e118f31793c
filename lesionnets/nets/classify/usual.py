"""How far a picture is from usual ones, by what a network sees in it.

After Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
NeurIPS 2018, sections 2.1 and 2.2: Mahalanobis distances at several depths of the network. Three things are
simpler: one mean for all classes, as skin is told from all else and not one diagnosis from another; at shallow
depths a diagonal covariance, as whole ones take other cameras for something else; and the largest distance counts,
each over a limit of its own, where the paper learns weights from examples of what is unusual.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LEAST = 0.02
"""Added to the standard deviations: a trait that hardly differs must not decide alone."""

SHRINKAGE = 0.3
"""Share of the identity in the last depth's covariance (Ledoit and Wolf, J. Multivariate Analysis 88, 2004)."""

_MARGIN = 1.02
"""Limits over the largest distance: a purifier that is trained on moves those of lesions by some thousandths."""


class Usual(nn.Module):
    """Distance of traits from those of usual pictures.

    The last depth's covariance has a few directions of its own and is even in all others (Tipping and Bishop,
    "Probabilistic Principal Component Analysis", J. R. Statist. Soc. B 61, 1999).

    Args:
        sizes: Number of traits at each depth.
        directions: At the last depth.

    Attributes:
        mean: Float [F], F the sum of sizes.
        spread: Float [F]: standard deviations of usual pictures, and a little more.
        directions: Float [size of the last depth, directions]: in which usual pictures differ most, and as long as
            that counts less.
        limits: Float [depths]: distances up to which a picture is usual.

    Shape:
        traits float [N, F] -> [N, 1], 0 and above; above 1 a picture is unusual.
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
        """Root mean squares of the traits' distances from the mean, [N, depths]."""
        apart = (traits - self.mean) / self.spread
        *shallow, last = torch.split(apart, self.sizes, dim=1)
        explained = (last @ self.directions).square().sum(dim=1)
        squares = [part.square().mean(dim=1) for part in shallow]
        squares.append((last.square().sum(dim=1) - explained) / self.sizes[-1])
        return torch.stack(squares, dim=1).clamp_min(0).sqrt()

    def fit(self, traits: Tensor, others: Tensor) -> None:
        """Take means and covariances of usual pictures, and limits that leave others within.

        Args:
            traits: Float [N, F], of usual pictures, more of them than directions.
            others: The same of usual pictures that no weight was fitted to.
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
    """Principal directions [F, count] of [N, F], of the length by whose square each explains its own variance."""
    _, scales, rows = torch.linalg.svd(apart, full_matrices=False)
    variances = scales.square() / len(apart)
    even = (variances.sum() - variances[:count].sum()) / max(apart.shape[1] - count, 1)
    first, even = ((1 - SHRINKAGE) * value + SHRINKAGE for value in (variances[:count], even))
    found: Tensor = rows[:count].T * (1 - even / first).clamp_min(0).sqrt()
    return found
