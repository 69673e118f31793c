"""U-Net whose encoder is an EfficientNet-Lite with ImageNet's weights, and a light decoder: our own, no paper's.

The decoder is that of ``nets.segment.unet_mobilenet``.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.efficient_lite import EfficientLite
from lesionnets.nets.segment.segmenter import Segmenter
from lesionnets.nets.segment.unet_mobilenet import DECODER, separable
from lesionnets.nets.sizes import padded, scaled


class UNetLite(Segmenter):
    """Image to per-pixel logits of lesion.

    Args:
        version: Of the encoder, 0 to 2.
        width: Of the decoder.
        dropout: Share of the deepest level's channels dropped in training.
        size: Side of the square pictures that it is trained on and served with, pixels; others work too.

    Attributes:
        bias: Float scalar, fitted after training: added to the logits, so that a half is where masks end best.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits [N, 1, H, W].
    """

    samples = 2
    long_side = 512
    bias: Tensor

    def __init__(self, version: int = 0, width: float = 1.0, dropout: float = 0.1, size: int = 256) -> None:
        super().__init__(size)
        self.encoder = EfficientLite(version)
        self.encoder.head = nn.Identity()  # type: ignore[assignment]
        self.dropout = nn.Dropout2d(dropout)
        levels = self.encoder.levels
        counts = [levels[-1], *(scaled(count, width) for count in DECODER)]
        self.decoder = nn.ModuleList(
            nn.Sequential(separable(below + skip, here), separable(here, here))
            for (below, here), skip in zip(pairwise(counts), levels[-2::-1], strict=True)
        )
        # The last enlargement is a pixel shuffle: a level at full resolution would cost as much as all others.
        self.head = nn.Conv2d(counts[-1], 4, 1)
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        height, width = image.shape[-2:]
        skips = self.encoder.levels_of(padded(image, 32))
        values = self.dropout(skips.pop())
        for block in self.decoder:
            values = functional.interpolate(values, scale_factor=2.0, mode="nearest")
            values = block(torch.cat([values, skips.pop()], dim=1))
        logits = functional.pixel_shuffle(self.head(values), 2)
        return logits[..., :height, :width]

    def logits(self, image: Tensor) -> Tensor:
        """As served: the bias included."""
        return self(image).float() + self.bias  # type: ignore[no-any-return]
