"""The base class of all classifiers that see a whole picture and its lesion mask, so that one graph serves any."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class MaskGuided(nn.Module, ABC):
    """A classifier of a whole picture and its lesion mask.

    Args:
        size: Side in pixels of the square pictures that it is trained on and served with; other sizes work, too.
        features: Length of the embedding.

    Attributes:
        head: The linear layer that computes the logits.
        temperature: Float scalar, fitted after training (Guo et al., ICML 2017): logits divided by it are
            calibrated.

    Shape:
        image float [N, 3, H, W], 0 to 1; mask float [N, 1, H, W], 0 to 1
        -> logits [N, classes], and class activation maps [N, classes, ceil(H / 16), ceil(W / 16)] (Zhou et al.,
        CVPR 2016), whose means are the logits minus the bias.
    """

    graph = "mb_dcnn"
    """Module of ``lesionnets.graphs`` that serves it. Unlike the stage's own graph, it does not cut pictures."""

    head: nn.Linear
    temperature: Tensor

    def __init__(self, size: int, features: int) -> None:
        super().__init__()
        self.size, self.features = size, features
        self.register_buffer("temperature", torch.ones(()))

    @abstractmethod
    def read(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``forward``, with the embedding float [N, features] of length 1 between the two."""

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        logits, _, maps = self.read(image, mask)
        return logits, maps


def of_likeliest(logits: Tensor, maps: Tensor) -> Tensor:
    """Of maps [N, classes, h, w], those of the classes with the greatest logits [N, classes]: [N, 1, h, w]."""
    likeliest = logits.argmax(dim=1).view(-1, 1, 1, 1).expand(-1, 1, *maps.shape[2:])
    return maps.gather(1, likeliest)


def localisation_map(logits: Tensor, maps: Tensor) -> Tensor:
    """Where a classifier looked: the map of the likeliest class, without what speaks against it, at most 1.

    Args:
        logits: [N, classes].
        maps: [N, classes, h, w].

    Returns:
        Float [N, 1, h, w], 0 to 1; all zeros if nothing speaks for the class.
    """
    chosen = of_likeliest(logits, maps).clamp(min=0)
    return chosen / chosen.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
