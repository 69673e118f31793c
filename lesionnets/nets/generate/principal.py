"""Pictures as a few numbers: their first principal components among the pictures of their class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 16
"""Side in pixels to which pictures are reduced first."""
LEAST = 1e-3
"""Least standard deviation by which a direction is divided, for classes with few pictures."""


class Principal:
    """The first principal components of each class, scaled to mean 0 and deviation 1 as latent vectors are.

    They are computed from the pictures in all eight mirrored and turned forms.

    Args:
        pictures: Uint8 [N, 3, S, S].
        labels: Int64 [N], from 0 to the number of classes minus 1; every class occurs.
        length: Number of components.
        where: Device of the pictures that are passed in later.
    """

    def __init__(self, pictures: Tensor, labels: Tensor, length: int, where: torch.device) -> None:
        found = [_directions(pictures[labels == label], length) for label in range(int(labels.max()) + 1)]
        self._means, self._directions = (torch.stack(part).to(where) for part in zip(*found, strict=True))

    def __call__(self, pictures: Tensor, labels: Tensor) -> Tensor:
        """Components float [N, length] of pictures float [N, 3, S, S], 0 to 1, with their classes int64 [N]."""
        apart = _reduced(pictures) - self._means[labels]
        components: Tensor = torch.einsum("np,npk->nk", apart, self._directions[labels])
        return components


def _directions(pictures: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Mean [P], and directions [P, length] divided by the standard deviations along them."""
    small = functional.adaptive_avg_pool2d(pictures.float() / 255, SIDE)
    turned = [torch.rot90(small, quarter, (2, 3)) for quarter in range(4)]
    rows = torch.cat([*turned, *(one.flip(3) for one in turned)]).flatten(1)
    mean = rows.mean(dim=0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    return mean, vectors[:, -length:] / values[-length:].clamp_min(0).sqrt().clamp_min(LEAST)


def _reduced(pictures: Tensor) -> Tensor:
    return functional.adaptive_avg_pool2d(pictures.float(), SIDE).flatten(1)
