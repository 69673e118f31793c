"""A small U-Net (Ronneberger et al., MICCAI 2015) with batch norm.

Three things differ from the paper. Convolutions are padded, levels have few channels, and the image is folded 2 x
2 into channels (and the logits are unfolded), which saves the costly level at full resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.segment.segmenter import Segmenter


def double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class UNet(Segmenter):
    """U-Net: a contracting path finds out what is there, an expanding path finds out where.

    Each level of the encoder halves the size, so that a 3 x 3 convolution sees more of the picture; each level of
    the decoder doubles it and also reads the encoder's maps of the same size (skip connections), which keeps
    borders sharp (Ronneberger et al., MICCAI 2015, https://arxiv.org/abs/1505.04597). It is the baseline of this
    package: small, and quick to train from random weights.

    Args:
        channels: Channels of the levels, from half resolution down; each level has half the size of the one
            before.
        width: Multiplies the channels.
        inputs: Channels of the image.
        outputs: Number of maps of logits.
        dropout: Share of the deepest level's channels that is dropped in training.
        size: Side in pixels of the square pictures that it is trained on and served with; other sizes work, too.

    Shape:
        image float [N, inputs, H, W], 0 to 1, H and W >= 2 -> logits [N, outputs, H, W].
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 96, 112, 128),
        width: float = 1.0,
        inputs: int = 3,
        outputs: int = 1,
        dropout: float = 0.1,
        size: int = 160,
    ) -> None:
        super().__init__(size)
        levels = [max(4, round(width * count)) for count in channels]
        self.fold = nn.PixelUnshuffle(2)
        self.encoder = nn.ModuleList(
            double_convolution(above, here) for above, here in zip([4 * inputs, *levels], levels, strict=False)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.decoder = nn.ModuleList(double_convolution(here + below, here) for here, below in pairwise(levels))
        self.head = nn.Conv2d(levels[0], 4 * outputs, 1)
        self.unfold = nn.PixelShuffle(2)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        height, width = image.shape[-2:]
        multiple = 2 ** len(self.encoder)
        padding = (0, -width % multiple, 0, -height % multiple)
        values = self.fold(functional.pad(4 * image - 2, padding))
        skips: list[Tensor] = []
        for number, block in enumerate(self.encoder):
            values = block(functional.max_pool2d(values, 2) if number else values)
            skips.append(values)
        values = self.dropout(skips.pop())
        for block in reversed(self.decoder):
            values = functional.interpolate(values, scale_factor=2.0, mode="nearest")
            values = block(torch.cat([skips.pop(), values], dim=1))
        logits: Tensor = self.unfold(self.head(values))
        return logits[..., :height, :width]
