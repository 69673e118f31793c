"""Pictures of an album with soft masks: whole frames, turned, squashed, in other light and pale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lesionnets.data import looks
from lesionnets.data.batches.in_memory import (
    Album,
    WeightedSampler,
    cut,
    hair_layers,
    random_affine,
    random_border,
)

Batch = tuple[Tensor, Tensor, Tensor]
"""Images float [N, 3, S, S], masks float [N, 1, S, S], indices int64 [N]."""

KEEP = 0.7
"""Share of an image's remembered loss that is kept at each new sight of it."""


class SoftPairs:
    """Batches of pictures and masks, in which the network's worst pictures come up to three times as often.

    Args:
        album: An album on the device that trains, whose images all have masks.
        size: Side of the output in pixels.
        batch_size: Pictures in a batch.
        seed: Seed of the hairs.
        soft: Blur the masks' edges, because some experts draw wider than others and the network cannot know who
            did.
    """

    def __init__(self, album: Album, size: int, batch_size: int, *, seed: int = 0, soft: bool = True) -> None:
        self.album, self.size, self.soft = album, size, soft
        where = album.images.device
        self.losses = torch.ones(len(album), device=where)
        self.draws = WeightedSampler(self.losses, batch_size)
        self.layers = hair_layers(size, seed).to(where)

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Iterator[Batch]:
        self.draws.chances = (self.losses / self.losses.mean()).clamp(0.5, 1.5)
        for chosen in self.draws:
            yield (*self.view(self.album.of(chosen)), chosen)

    @torch.no_grad()
    def view(self, album: Album) -> tuple[Tensor, Tensor]:
        """One random view of each picture, and its mask."""
        count, where = len(album), album.images.device
        still, ones = torch.zeros(count, 2, device=where), torch.ones(count, device=where)
        placed = random_affine(still, ones, spread=0.2, shift=0.08)
        images, masks = cut(album, placed, self.size, random_border())
        images = looks.coarsened(looks.paled(looks.relit(images)))
        images, light = looks.dark_corners(looks.overlaid(images, self.layers))
        masks = masks * (light > 0.5)
        return images.clamp(0, 1), softened(masks) if self.soft else masks

    def learn(self, chosen: Tensor, losses: Tensor) -> None:
        """Remember how badly the network did on images."""
        self.losses[chosen] = KEEP * self.losses[chosen] + (1 - KEEP) * losses

    def state_dict(self) -> dict[str, Any]:
        """The remembered losses."""
        return {"losses": self.losses}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.losses.copy_(state["losses"])


def softened(masks: Tensor) -> Tensor:
    """Blur masks [N, 1, S, S] so that edges fall off over a thirtieth of the side."""
    width = masks.shape[-1] // 60 * 2 + 1
    for _ in range(2):
        masks = functional.avg_pool2d(masks, width, stride=1, padding=width // 2, count_include_pad=False)
    return masks
