"""SRGAN, x4 (Ledig et al., CVPR 2017, fig. 4), as SkinSegmentSRGAN (section 3.3) uses it.

The generator has 16 residual blocks and the discriminator 8 convolutions. Before the dense layers the
discriminator's maps are sampled at 6 x 6, their size for the 96 x 96 pixels of Ledig et al. So it judges the 256 x
256 pixels of SkinSegmentSRGAN, and any other size, with the same 23.6 M parameters instead of 139 M
(docs/decisions/0018).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.enhance.enhancer import Enhancer
from lesionnets.nets.sizes import scaled

POOLED = 6


class SrganBlock(nn.Module):
    """Convolution, batch norm, PReLU, convolution, batch norm; the output is added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.PReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, values: Tensor) -> Tensor:
        """Float [N, C, H, W] -> float [N, C, H, W]."""
        result: Tensor = values + self.layers(values)
        return result


class SrganGenerator(Enhancer):
    """x4 super-resolution that adds plausible detail; the generator of the recipe ``enhance_srgan``.

    A network that minimises squared error answers with the mean of all sharp pictures that are possible, which is
    blurred. This one is also paid for fooling a discriminator and for features like those of the original, so it
    answers with one sharp picture (Ledig et al., CVPR 2017, sections 2.1 and 2.2,
    https://arxiv.org/abs/1609.04802). Its detail is invented: never measure on it.

    Args:
        width: Multiplies the channels of all layers; 1.0 is the paper's width.
        blocks: Number of residual blocks; 16 is the paper's.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> float [N, 3, 4 H, 4 W], 0 to 1.
    """

    def __init__(self, width: float = 1.0, blocks: int = 16) -> None:
        super().__init__()
        channels = scaled(64, width)
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.PReLU())
        self.body = nn.Sequential(
            *(SrganBlock(channels) for _ in range(blocks)),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        enlargements: list[nn.Module] = []
        for _ in range(2):
            enlargements += [
                nn.Conv2d(channels, 4 * channels, 3, padding=1),
                nn.PixelShuffle(2),
                nn.PReLU(),
            ]
        self.enlarge = nn.Sequential(*enlargements)
        self.head = nn.Conv2d(channels, 3, 9, padding=4)
        self.blocks = blocks

    @property
    def radius(self) -> int:
        """As in :class:`Enhancer`: 4 for the stem, 1 for each convolution, 1 + 1/2 + 1 for the enlarged layers."""
        return 4 + 2 * self.blocks + 1 + 3

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        features = self.stem(2 * image - 1)
        picture = self.head(self.enlarge(features + self.body(features)))
        return (torch.tanh(picture) + 1) / 2


class SrganDiscriminator(nn.Module):
    """Judges whether a picture is an original or a generator's; used in training only.

    Eight strided and plain convolutions, then two dense layers (Ledig et al., CVPR 2017, fig. 4).

    Args:
        width: Multiplies the channels of all layers; 1.0 is the paper's width.

    Shape:
        picture float [N, 3, H, W], 0 to 1 -> logits float [N, 1] of being an original; the
            loss applies the sigmoid.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        counts = [scaled(count, width) for count in (64, 64, 128, 128, 256, 256, 512, 512)]
        layers: list[nn.Module] = [nn.Conv2d(3, counts[0], 3, padding=1), nn.LeakyReLU(0.2)]
        for number, (inputs, outputs) in enumerate(pairwise(counts), start=1):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=1 + number % 2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.2),
            ]
        self.features = nn.Sequential(*layers)
        dense = scaled(1024, width)
        self.judge = nn.Sequential(
            nn.Flatten(), nn.Linear(counts[-1] * POOLED**2, dense), nn.LeakyReLU(0.2), nn.Linear(dense, 1)
        )

    def forward(self, picture: Tensor) -> Tensor:
        """See the class."""
        features = self.features(2 * picture - 1)
        # Sampled rather than pooled by adaptive windows, which ONNX has only for sides that 6 divides.
        features = functional.interpolate(features, size=(POOLED, POOLED), mode="bilinear", align_corners=False)
        logits: Tensor = self.judge(features)
        return logits
