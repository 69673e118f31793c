"""DCGAN (Radford et al. 2015) as Bisla et al. 2019 use it in sections 3.6 and 3.7: for one class, or coupled.

A coupled DCGAN is one DCGAN for each class, and these share their first layers: those after the latent vector in
the generator, and those after the picture in the discriminator. With one class it is a plain DCGAN, so this is
also the de-coupled network of section 3.6. What the text leaves open is in docs/decisions/0044.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lesionnets.nets.sizes import scaled

LATENT = 10
"""Length of the latent vector in both sections."""
FIRST = 4
"""Side of the first maps in pixels."""
CHANNELS = 1024
"""Channels of the first maps at the paper's width; halved at each doubling (Radford et al., fig. 1)."""
SHARED = 2
"""Convolutions that the classes share, besides the generator's dense layer."""


def _counts(size: int, width: float) -> list[int]:
    """Channels from the first maps to the last ones, which have half of the picture's side.

    Raises:
        ValueError: If doubling from 4 pixels does not reach the side.
    """
    doublings = (size // FIRST).bit_length() - 1
    if size != FIRST << doublings or doublings < SHARED + 1:
        raise ValueError(f"a side of {size} pixels is not one of 32, 64, 128, 256, ...")
    return [scaled(CHANNELS >> number, width) for number in range(doublings)]


def by_class(ends: nn.ModuleList, values: Tensor, labels: Tensor) -> Tensor:
    """Run each row of values through its own class's layers; rows keep their order.

    Args:
        ends: One module for each class.
        values: Float [N, ...].
        labels: Int64 [N], indices of classes.
    """
    if len(ends) == 1:
        found: Tensor = ends[0](values)
        return found
    present = [number for number in range(len(ends)) if bool((labels == number).any())]
    rows = [torch.nonzero(labels == number)[:, 0] for number in present]
    parts = [ends[number](values[where]) for number, where in zip(present, rows, strict=True)]
    return torch.cat(parts)[torch.argsort(torch.cat(rows))]


class DcganGenerator(nn.Module):
    """Makes pictures of lesions from random latent vectors.

    A dense layer turns the vector into a small map, and transposed convolutions double its side until it is a
    picture (Radford et al. 2015, fig. 1 and section 3, https://arxiv.org/abs/1511.06434). It learns from a
    discriminator that tries to tell its pictures from originals.

    Args:
        classes: Names of the classes; if there are several, they share the first layers.
        size: Side of the pictures in pixels: 32, 64, 128, 256 and so on.
        width: Multiplies the channels of all layers; 1.0 is the paper's width.
        latent: Length of the latent vector.

    Shape:
        latent float [N, latent], standard normal; labels int64 [N] -> float [N, 3, size, size], 0 to 1.
    """

    def __init__(self, classes: Sequence[str], size: int = 64, width: float = 1.0, latent: int = LATENT) -> None:
        super().__init__()
        self.classes, self.size, self.latent = tuple(classes), size, latent
        counts = _counts(size, width)
        pairs = list(pairwise(counts))
        self.first = counts[0]
        self.dense = nn.Linear(latent, counts[0] * FIRST**2)
        shared = [nn.BatchNorm2d(counts[0]), nn.ReLU()]
        self.shared = nn.Sequential(*shared, *(layer for pair in pairs[:SHARED] for layer in _doubled(*pair)))
        self.ends = nn.ModuleList(
            nn.Sequential(
                *(layer for pair in pairs[SHARED:] for layer in _doubled(*pair)),
                nn.ConvTranspose2d(counts[-1], 3, 4, 2, 1),
            )
            for _ in self.classes
        )
        self.apply(_begin)

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        """See the class."""
        values = self.shared(self.dense(latent).unflatten(1, (self.first, FIRST, FIRST)))
        return (torch.tanh(by_class(self.ends, values, labels)) + 1) / 2


class DcganDiscriminator(nn.Module):
    """Judges whether a picture is an original of its class or a generator's; used in training only.

    Before the last layer it adds one map that says how much the pictures of the batch differ (Karras et al., ICLR
    2018, section 3, https://arxiv.org/abs/1710.10196). So a generator that always makes the same picture is found
    out. This is a simple form of the minibatch discrimination of Salimans et al.

    Args:
        classes: Names of the classes, as in the generator.
        size: Side of the pictures in pixels.
        width: Multiplies the channels of all layers; 1.0 is the paper's width.

    Shape:
        picture float [N, 3, size, size], 0 to 1; labels int64 [N] -> logits float [N] of being an original.
    """

    def __init__(self, classes: Sequence[str], size: int = 64, width: float = 1.0) -> None:
        super().__init__()
        counts = _counts(size, width)[::-1]
        pairs = list(pairwise(counts))
        self.shared = nn.Sequential(
            nn.Conv2d(3, counts[0], 4, 2, 1),
            nn.LeakyReLU(0.2),
            *(layer for pair in pairs[: SHARED - 1] for layer in _halved(*pair)),
        )
        self.ends = nn.ModuleList(
            nn.Sequential(
                *(layer for pair in pairs[SHARED - 1 :] for layer in _halved(*pair)),
                MinibatchDeviation(),
                nn.Conv2d(counts[-1] + 1, 1, FIRST),
                nn.Flatten(0),
            )
            for _ in classes
        )
        self.apply(_begin)

    def forward(self, picture: Tensor, labels: Tensor) -> Tensor:
        """See the class."""
        return by_class(self.ends, self.shared(2 * picture - 1), labels)


class MinibatchDeviation(nn.Module):
    """Adds one map: the standard deviation over the batch, averaged over channels and places."""

    def forward(self, values: Tensor) -> Tensor:
        """Float [N, C, H, W] -> float [N, C + 1, H, W]."""
        spread = values.float().var(dim=0, correction=0).add(1e-8).sqrt().mean().to(values.dtype)
        return torch.cat([values, spread.expand_as(values[:, :1])], dim=1)


def _doubled(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def _halved(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]


def _begin(module: nn.Module) -> None:
    """Draw weights from a normal distribution with the standard deviation 0.02 (Radford et al., section 4)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
