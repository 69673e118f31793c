"""The base class of all segmentation networks, so that one graph can serve any of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Segmenter(nn.Module):
    """A network that gives each pixel of an image a logit of being lesion.

    Args:
        size: Side in pixels of the square pictures that it is trained on and served with; other sizes work, too.

    Attributes:
        samples: Points along each side of a new pixel when pictures are reduced to that square.
        bordered: Whether it also finds borders: :meth:`maps`.
        long_side: Pixels on the long side to which a worker reduces the pictures that it sends; None: the worker's
            default.
        temperature: Float scalar, fitted after training (Guo et al., ICML 2017): logits divided by it are
            calibrated.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits [N, 1, H, W]. A network that returns more overrides
        :meth:`logits`.
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
        """The output that is served, validated and calibrated: float [N, 3, H, W] -> logits float [N, 1, H, W]."""
        result: Tensor = self(image)
        return result

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the lesion and of its border, [N, 1, H, W] each; only of networks that are ``bordered``."""
        raise NotImplementedError
