"""A U-Net (Ronneberger et al. 2015) on the image folded 2 x 2 into channels, so on a quarter of the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

FOLD = 2


class ConvBlock(nn.Sequential):
    """3 x 3 convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )


class FoldedUNet(nn.Module):
    """U-Net on the image folded 2 x 2 into channels: a quarter of the pixels with four times the channels.

    The widest maps of a U-Net, at the full size, cost most; folding leaves them out and loses nothing of the
    image.

    Args:
        widths: Channels of each level, finest first. The sides of the input must be multiples of ``stride``.
        outputs: Number of output maps.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> float [N, outputs, H, W], all zero before training.
    """

    def __init__(self, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.stem = ConvBlock(3 * FOLD**2, widths[0])
        self.down = nn.ModuleList(ConvBlock(width, width) for width in widths)
        self.widen = nn.ModuleList(ConvBlock(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.merge = nn.ModuleList(ConvBlock(2 * width, width) for width in widths[:-1])
        self.head = nn.Conv2d(widths[0], outputs * FOLD**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.widths = tuple(widths)
        self.stride = FOLD * 2 ** (len(widths) - 1)

    def maps(self, x: Tensor) -> Tensor:
        """See the class."""
        features = self.stem(F.pixel_unshuffle(x - 0.5, FOLD))
        skips = []
        for level, block in enumerate(self.down):
            features = block(features)
            if level < len(self.widen):
                skips.append(features)
                features = self.widen[level](F.max_pool2d(features, 2))
        for level in reversed(range(len(self.merge))):
            features = self.merge[level](torch.cat([self.up[level](features), skips[level]], dim=1))
        return F.pixel_shuffle(self.head(features), FOLD)
