"""Segmentation network: a U-Net with dilated convolutions (Bisla et al. 2019, section 3.4 and fig. 3).

The U-Net is that of Ronneberger et al. (MICCAI 2015), with padded convolutions, each followed by a ReLU, and
without batch norm, as the text says. We take the "2 dilated and 4 dilated" convolutions to be those of the two
deepest levels, where the field of view matters: see docs/decisions/0018. ``dermbatch.images.lesion`` fills the
holes of the masks after the threshold, as for every segmentation.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.segment.segmenter import Segmenter
from lesionnets.nets.sizes import padded, scaled

LEVELS = ((64, 1), (128, 1), (256, 1), (512, 2), (1024, 4))
"""Channels and dilation, from full resolution down."""


def double_convolution(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with a ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=dilation, dilation=dilation),
        nn.ReLU(inplace=True),
    )


class DilatedUNet(Segmenter):
    """U-Net whose deepest convolutions are dilated, the segmenter of Bisla et al. 2019.

    A dilated convolution leaves gaps between its nine taps: it sees a wider field at the same cost and without
    another halving (Yu and Koltun, ICLR 2016, https://arxiv.org/abs/1511.07122), so that a lesion that fills the
    picture is still seen as one.

    Args:
        width: Multiplies the channels of all levels; 1.0 is the paper's width.
        size: Side in pixels of the square pictures that it is trained on and served with; other sizes work, too.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits [N, 1, H, W].
    """

    def __init__(self, width: float = 1.0, size: int = 512) -> None:
        super().__init__(size)
        levels = [(scaled(count, width), dilation) for count, dilation in LEVELS]
        self.encoder = nn.ModuleList(
            double_convolution(above, here, dilation)
            for (above, _), (here, dilation) in pairwise([(3, 1), *levels])
        )
        steps = list(pairwise(count for count, _ in levels))
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, here, 2, stride=2) for here, below in steps)
        self.decoder = nn.ModuleList(double_convolution(2 * here, here) for here, _ in steps)
        self.head = nn.Conv2d(levels[0][0], 1, 1)
        # Deep stacks without batch norm need He's initialisation to learn at all.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        height, width = image.shape[-2:]
        # Mean and deviation of one half each: bytes in -1 to 1.
        values = padded(2 * image - 1, 2 ** len(self.up))
        skips: list[Tensor] = []
        for number, block in enumerate(self.encoder):
            values = block(functional.max_pool2d(values, 2) if number else values)
            skips.append(values)
        skips.pop()
        for up, block in zip(reversed(self.up), reversed(self.decoder), strict=True):
            values = block(torch.cat([up(values), skips.pop()], dim=1))
        logits: Tensor = self.head(values)
        return logits[..., :height, :width]
