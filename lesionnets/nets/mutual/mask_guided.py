"""What all classifiers of a whole picture and its lesion mask share, so that one graph serves them all."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class MaskGuided(nn.Module, ABC):
    """A network from image and lesion mask to diagnoses.

    Args:
        size: Side of the square pictures that it is trained on and served with, pixels; others work too.
        features: Length of the embedding.

    Attributes:
        head: The linear layer that makes the logits.
        temperature: Float scalar, fitted after training (Guo et al., ICML 2017): logits over it are calibrated.

    Shape:
        image float [N, 3, H, W], 0 to 1; mask float [N, 1, H, W], 0 to 1
        -> logits [N, classes], and class activation maps [N, classes, ceil(H / 16), ceil(W / 16)] (Zhou et al.,
        CVPR 2016), whose means are the logits less the bias.
    """

    graph = "mb_dcnn"
    """Module of ``lesionnets.graphs`` that serves it: pictures are not cut, unlike the stage's own graph."""

    head: nn.Linear
    temperature: Tensor

    def __init__(self, size: int, features: int) -> None:
        super().__init__()
        self.size, self.features = size, features
        self.register_buffer("temperature", torch.ones(()))

    @abstractmethod
    def read(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``forward``, with the embedding [N, features] of length 1 in the middle."""

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        logits, _, maps = self.read(image, mask)
        return logits, maps


def of_likeliest(logits: Tensor, maps: Tensor) -> Tensor:
    """The maps [N, classes, h, w] of the classes of greatest logit [N, classes]: [N, 1, h, w]."""
    likeliest = logits.argmax(dim=1).view(-1, 1, 1, 1).expand(-1, 1, *maps.shape[2:])
    return maps.gather(1, likeliest)


def localisation_map(logits: Tensor, maps: Tensor) -> Tensor:
    """Where a classifier looked: the likeliest class's map, 1 at its greatest, without what speaks against it.

    Args:
        logits: [N, classes].
        maps: [N, classes, h, w].

    Returns:
        Float [N, 1, h, w], 0 to 1; zeros where nothing spoke for the class.
    """
    chosen = of_likeliest(logits, maps).clamp(min=0)
    return chosen / chosen.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
