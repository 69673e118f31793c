"""Random views of an album's lesions, in other light and through hair, for ``classify_lite``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lesionnets.data import looks
from lesionnets.data.batches.in_memory import (
    Album,
    WeightedSampler,
    affine,
    balanced,
    cut,
    hair_layers,
    random_affine,
    random_border,
    view_squares,
)
from lesionnets.data.sources.isic import DIAGNOSES

Views = tuple[Tensor, Tensor, Tensor]
"""Images float [N, 3, S, S], masks float [N, 1, S, S], probabilities of the diagnoses float [N, classes]."""


@dataclass(frozen=True)
class Looks:
    """What is varied; by default everything.

    Attributes:
        light: Light, colours, resolution, noise, contrast.
        layers: Hairs, rulers, ink, bubbles, dark corners.
        scales: Views between the lesion and the whole picture; if not, only the whole picture.
        mixup: Pairs of views are mixed (Zhang et al., "mixup", ICLR 2018).
        balance: 1 for diagnoses balanced within each source, 0 for their own frequencies.
    """

    light: bool = True
    layers: bool = True
    scales: bool = True
    mixup: bool = False
    balance: float = 0.5


class LookedAt:
    """Batches of views.

    Args:
        album: An album on the device that trains, whose images all have a diagnosis.
        size: Side of the views in pixels.
        batch_size: Views in a batch.
        vary: What is varied.
        seed: Seed of the hairs.
    """

    def __init__(self, album: Album, size: int, batch_size: int, vary: Looks = Looks(), seed: int = 0) -> None:
        self.album, self.size, self.vary = album, size, vary
        self.draws = WeightedSampler(balanced(album.labels, album.sources, vary.balance), batch_size)
        self.layers = hair_layers(size, seed).to(album.images.device) if vary.layers else None

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Iterator[Views]:
        for chosen in self.draws:
            yield self.view(self.album.of(chosen))

    @torch.no_grad()
    def view(self, album: Album) -> Views:
        """One random view of each image."""
        count, where, vary = len(album), album.images.device, self.vary
        share = torch.rand(count, device=where) if vary.scales else torch.ones(count, device=where)
        centres, sides = view_squares(album.squares, share)
        placed = random_affine(centres, sides, spread=0.15, shift=0.05)
        images, masks = cut(album, placed, self.size, random_border())
        if vary.light:
            images = looks.coarsened(looks.relit(images))
        if self.layers is not None:
            images = looks.dark_corners(looks.overlaid(images, self.layers))[0]
        labels = functional.one_hot(album.labels, len(DIAGNOSES)).float()
        masks = unsure(masks)
        return mixed(images, masks, labels) if vary.mixup else (images, masks, labels)


def unsure(masks: Tensor, missing: float = 0.15) -> Tensor:
    """Change masks as a network may draw them: wider, tighter, and now and then empty."""
    count = len(masks)
    soft = functional.avg_pool2d(masks, 15, stride=1, padding=7)
    level = 0.15 + 0.7 * torch.rand(count, 1, 1, 1, device=masks.device)
    there = torch.rand(count, 1, 1, 1, device=masks.device) >= missing
    return (soft > level).float() * there


def mixed(images: Tensor, masks: Tensor, labels: Tensor, strength: float = 0.2) -> Views:
    """Mix views and labels with others of the batch; half of the batches stay as they are."""
    if torch.rand(()) < 0.5:
        return images, masks, labels
    share = float(torch.distributions.Beta(strength, strength).sample())
    other = torch.randperm(len(images), device=images.device)
    images, masks, labels = (share * one + (1 - share) * one[other] for one in (images, masks, labels))
    return images, masks, labels


@torch.no_grad()
def plain_views(album: Album, size: int, share: float) -> tuple[Tensor, Tensor]:
    """Images and masks of the views that are served: the lesion (``share`` 0) or the picture (1)."""
    count, where = len(album), album.images.device
    centres, sides = view_squares(album.squares, torch.full((count,), share, device=where))
    still, ones = torch.zeros(count, device=where), torch.ones(count, 2, device=where)
    return cut(album, affine(centres, sides, angle=still, squash=ones, mirror=ones[:, 0]), size, "border")
