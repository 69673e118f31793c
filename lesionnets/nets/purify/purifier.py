"""A small U-Net that finds what lies over the skin and paints what lies under it.

A U-Net (Ronneberger et al. 2015) on the image folded 2 x 2 into channels (so the widest maps are a quarter of
the pixels), with two outputs: where hair, ruler or ink covers the skin, and the picture without them. As in the
purification network of Bisla et al. (2019) it learns from pairs of covered and clean images; unlike theirs it
needs no mask as input, as it finds the mask itself.

The picture is what is found to be clean, spread over what is not, plus what the network adds. A network that
starts from the covered picture instead never quite takes a dark hair away (docs/decisions/0022).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

FOLD = 2
ENOUGH = 0.25
"""Share of a window that must be valid for its mean to be believed alone."""


class ConvBlock(nn.Sequential):
    """3 x 3 convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )


class FoldedUNet(nn.Module):
    """U-Net on the image folded 2 x 2 into channels: a quarter of the pixels at four times the channels.

    Args:
        widths: Channels of each level, finest first. Sides of the input must be multiples of ``stride``.
        outputs: Maps.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> float [N, outputs, H, W], zero at first.
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


class Purifier(FoldedUNet):
    """One U-Net with two outputs: where hair, rulers or ink cover the skin, and the picture without them.

    It is trained on clean pictures over which occlusions were drawn, so the truth of both outputs is known. What
    it paints is what lies around a covered pixel, spread over it from coarse to fine, plus what the network adds.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits [N, 1, H, W] of being covered, and the picture [N, 3, H, W].

    Args:
        widths: Channels of each level, finest first. Sides of the input must be multiples of ``stride``.
    """

    def __init__(self, widths: Sequence[int] = (32, 48, 64, 96)) -> None:
        super().__init__(widths, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Find and fill.

        Args:
            x: Float [N, 3, H, W], sRGB in 0 to 1.

        Returns:
            Logits [N, 1, H, W] of being occluded, and the clean picture [N, 3, H, W], about 0 to 1, not clipped.
            The picture is meant to be used where it is occluded only.
        """
        both = self.maps(x)
        logits = both[:, :1]
        return logits, spread(x, clean_share(logits), self.stride.bit_length() - 1) + both[:, 1:]


def clean_share(logits: Tensor) -> Tensor:
    """How far a pixel can be believed to be clean, from occlusion logits; float [N, 1, H, W], 0 to 1.

    Next to a hair lie its blurred edges, so a pixel is no cleaner than its neighbours. The power makes a pixel
    that is likely to be covered (from a quarter on) count little.
    """
    likely = F.max_pool2d(logits.float().sigmoid(), 3, stride=1, padding=1)
    return (1 - likely) ** 6


def spread(picture: Tensor, valid: Tensor, levels: int) -> Tensor:
    """Spread what is valid over what is not, from fine to coarse (push-pull: Gortler et al., SIGGRAPH 1996, 3.4).

    Args:
        picture: Float [N, C, H, W].
        valid: Float [N, 1, H, W], 0 to 1.
        levels: Halvings, of which both sides must be capable; the coarsest means reach over 2^(levels + 1) pixels.

    Returns:
        Float32 [N, C, H, W]: the picture where it is valid, elsewhere means of what is valid near by.
    """
    pushed = [(picture.float() * valid, valid)]
    for _ in range(levels):
        # Windows of 4 that overlap by half: means of 2 x 2 would show as blocks.
        sums, weights = (F.avg_pool2d(values, 4, stride=2, padding=1) for values in pushed[-1])
        pushed.append((sums, weights))
    sums, weights = pushed[-1]
    pulled = sums.mean((2, 3), keepdim=True) / weights.mean((2, 3), keepdim=True).clamp(min=1e-4)
    for sums, weights in reversed(pushed[1:]):
        trust = (weights / ENOUGH).clamp(max=1)
        pulled = trust * sums / weights.clamp(min=1e-4) + (1 - trust) * _enlarged(pulled, sums)
    return pushed[0][0] + (1 - valid) * _enlarged(pulled, picture)


def _enlarged(values: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(values, size=like.shape[-2:], mode="bilinear", align_corners=False)
