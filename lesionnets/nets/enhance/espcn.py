"""Efficient sub-pixel super-resolution, x4, with residual blocks.

All convolutions run at the low resolution. The last one makes 4 x 4 x 3 values for each pixel, which a pixel
shuffle spreads out (Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
Convolutional Neural Network", CVPR 2016, section 3). Two things differ from the paper: the features run through
residual blocks (He et al. 2016), and the network predicts what bicubic interpolation misses, so an untrained
network is bicubic interpolation and no trained one has to learn it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from lesionnets.nets.byte_conv import ByteConv2d
from lesionnets.nets.enhance.enhancer import SCALE, SubPixelEnhancer

_CUBIC_A = -0.5  # Keys 1981: exact on quadratics; what Pillow uses
_TAPS = 5  # four taps a phase, over phases that start one pixel apart


def bicubic_phases(scale: int = SCALE) -> Tensor:
    """Weights of bicubic interpolation as a convolution that makes ``scale`` x ``scale`` values for each pixel.

    Returns:
        Float32 [scale * scale, 1, 5, 5]: one kernel for each sub-pixel, row-major; every kernel sums to 1.
    """
    line = bicubic_line(scale)
    kernels = torch.einsum("ai,bj->abij", line, line)
    return kernels.reshape(scale * scale, 1, _TAPS, _TAPS).float()


def bicubic_line(scale: int) -> Tensor:
    """Weights of bicubic interpolation along one axis: float64 [scale, 5], for each part of a pixel in order."""
    centre = _TAPS // 2
    line = torch.zeros(scale, _TAPS, dtype=torch.float64)
    for phase in range(scale):
        offset = (phase + 0.5) / scale - 0.5
        for tap in range(_TAPS):
            line[phase, tap] = _keys(abs(tap - centre - offset))
    return line


def _keys(distance: float) -> float:
    a = _CUBIC_A
    if distance < 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    if distance < 2:
        return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    return 0.0


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a ReLU, whose output is added to the input; shapes stay the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ByteConv2d(channels, channels, 3, rectified=True)
        self.second = ByteConv2d(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map float [N, C, H, W] to float [N, C, H, W]."""
        out: Tensor = x + self.second(F.relu(self.first(x)))
        return out


class Espcn(SubPixelEnhancer):
    """Efficient sub-pixel super-resolution: work on the small picture, enlarge in the last step.

    A network that enlarged first would do 16 times the work. This one predicts the 16 sub-pixels of each pixel as
    16 channels and rearranges them (pixel shuffle; Shi et al., CVPR 2016, https://arxiv.org/abs/1609.05158), and
    only what bicubic interpolation misses: before any training it is bicubic interpolation.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> float [N, 3, 4 H, 4 W], about 0 to 1.

    Args:
        channels: Feature maps at the low resolution.
        blocks: Residual blocks.
    """

    def __init__(self, channels: int = 24, blocks: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.blocks = blocks
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.head = ByteConv2d(channels, 3 * SCALE * SCALE, 3)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        # Three colours, each with its own 16 sub-pixels: a grouped convolution in pixel shuffle's channel order.
        self.register_buffer("phases", bicubic_phases().repeat(3, 1, 1, 1), persistent=False)

    @property
    def radius(self) -> int:
        """Low-resolution pixels on each side on which an output value depends; see :class:`Enhancer`."""
        return max(2 + 2 * self.blocks, _TAPS // 2)

    def sub_pixels(self, x: Tensor) -> Tensor:
        """Bicubic interpolation plus what it misses; see :class:`SubPixelEnhancer`."""
        margin = _TAPS // 2
        framed = F.pad(x, (margin, margin, margin, margin), mode="replicate")
        smooth = F.conv2d(framed, self.get_buffer("phases"), groups=3)
        # Centred input: the zeros beyond the border then stand for mid grey, not for black.
        features = F.relu(self.stem(x - 0.5))
        detailed: Tensor = smooth + self.head(features + self.body(features))
        return detailed
