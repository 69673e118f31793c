"""A small U-Net that finds what lies over the skin and paints what lies under it.

A U-Net (Ronneberger et al. 2015) on the image folded 2 x 2 into channels (so the widest maps are a quarter of
the pixels), with two outputs: where hair, ruler or ink covers the skin, and the picture without them. As in the
purification network of Bisla et al. (2019) it learns from pairs of covered and clean images; unlike theirs it
needs no mask as input, as it finds the mask itself.
"""

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


class Purifier(nn.Module):
    """Occlusion map and clean picture from an RGB image.

    Args:
        widths: Channels of each level, finest first. Sides of the input must be multiples of ``stride``.
    """

    def __init__(self, widths: Sequence[int] = (32, 48, 64, 96)) -> None:
        super().__init__()
        self.stem = ConvBlock(3 * FOLD**2, widths[0])
        self.down = nn.ModuleList(ConvBlock(width, width) for width in widths)
        self.widen = nn.ModuleList(ConvBlock(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.merge = nn.ModuleList(ConvBlock(2 * width, width) for width in widths[:-1])
        self.head = nn.Conv2d(widths[0], 4 * FOLD**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.stride = FOLD * 2 ** (len(widths) - 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Find and fill.

        Args:
            x: Float [N, 3, H, W], sRGB in 0 to 1.

        Returns:
            Logits [N, 1, H, W] of being occluded, and the clean picture [N, 3, H, W], about 0 to 1, not clipped.
            The picture is meant to be used where it is occluded only.
        """
        features = self.stem(F.pixel_unshuffle(x - 0.5, FOLD))
        skips = []
        for level, block in enumerate(self.down):
            features = block(features)
            if level < len(self.widen):
                skips.append(features)
                features = self.widen[level](F.max_pool2d(features, 2))
        for level in reversed(range(len(self.merge))):
            features = self.merge[level](torch.cat([self.up[level](features), skips[level]], dim=1))
        both = F.pixel_shuffle(self.head(features), FOLD)
        return both[:, :1], x + both[:, 1:]
