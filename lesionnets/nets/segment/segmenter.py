"""What all networks from an image to its lesion share, so that one graph serves them all."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Segmenter(nn.Module):
    """A network from image to per-pixel logits of lesion.

    Args:
        size: Side of the square pictures that it is trained on and served with, pixels; others work too.

    Attributes:
        samples: Points along each side of a pixel of that square that pictures are reduced by.
        bordered: It tells borders, too: :meth:`maps`.
        long_side: Pixels to which a worker reduces what it sends; its own default where none is given.
        temperature: Float scalar, fitted after training (Guo et al., ICML 2017): logits over it are calibrated.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits [N, 1, H, W]. Who gives more overrides :meth:`logits`.
    """

    samples = 4
    bordered = False
    long_side: int | None = None
    temperature: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("temperature", torch.ones(()))

    def logits(self, image: Tensor) -> Tensor:
        """What is served, validated and calibrated: float [N, 3, H, W] -> the lesion's logits [N, 1, H, W]."""
        result: Tensor = self(image)
        return result

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Of a network that is ``bordered``: logits of the lesion and of its border map, [N, 1, H, W] each."""
        raise NotImplementedError
