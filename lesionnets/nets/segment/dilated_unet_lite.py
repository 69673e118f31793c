"""The dilated U-Net of Bisla et al. 2019 (section 3.4) on an encoder with ImageNet's weights.

It shows what pretraining adds to the paper's network. Levels, dilations and decoder are those of
``nets.segment.dilated_unet``, but an EfficientNet-Lite0 (``nets.efficient_lite``) describes the picture at a half
to a sixteenth of its sides. Start the encoder from ImageNet's weights: :meth:`DilatedUNetLite.load_encoder`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from lesionnets.nets.efficient_lite import EfficientLite
from lesionnets.nets.segment.dilated_unet import LEVELS, double_convolution
from lesionnets.nets.segment.segmenter import Segmenter
from lesionnets.nets.sizes import padded, scaled

DEEPEST = 4
"""Levels of the encoder that are used: a half to a sixteenth of the image's sides, as in the paper's U-Net."""


class DilatedUNetLite(Segmenter):
    """U-Net on EfficientNet-Lite0 whose two deepest levels end in dilated convolutions.

    Args:
        width: Multiplies the channels of the U-Net's own levels; 1.0 is the paper's width. The encoder has the
            width of its weights.
        size: Side in pixels of the square pictures that it is trained on and served with; other sizes work, too.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits [N, 1, H, W].
    """

    def __init__(self, width: float = 1.0, size: int = 160) -> None:
        super().__init__(size)
        self.encoder = EfficientLite(0)
        found = self.encoder.levels[:DEEPEST]
        # Nothing reads what is deeper than a sixteenth.
        self.encoder.blocks = self.encoder.blocks[: self.encoder.ends[DEEPEST - 1] + 1]
        self.encoder.head = nn.Identity()  # type: ignore[assignment]
        whole, *shallow, second, deepest = (scaled(count, width) for count, _ in LEVELS)
        self.first = double_convolution(3, whole)
        self.dilated = nn.ModuleList(
            double_convolution(given, here, dilation)
            for given, here, (_, dilation) in zip(found[-2:], (second, deepest), LEVELS[-2:], strict=True)
        )
        joined = (whole, *found[:2], second)
        counts = (whole, *shallow, second, deepest)
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, here, 2, stride=2) for here, below in pairwise(counts))
        self.decoder = nn.ModuleList(
            double_convolution(here + skip, here) for here, skip in zip(counts, joined, strict=False)
        )
        self.head = nn.Conv2d(whole, 1, 1)
        for module in (*self.first, *self.dilated.modules(), *self.decoder.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def load_encoder(self, encoder: EfficientLite) -> None:
        """Copy the weights of an EfficientNet-Lite0 that ``nets.efficient_lite.load_imagenet`` filled."""
        wanted = self.encoder.state_dict()
        state = encoder.state_dict()
        self.encoder.load_state_dict({name: state[name] for name in wanted})

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        height, width = image.shape[-2:]
        image = padded(image, 2**DEEPEST)
        skips = [self.first(2 * image - 1), *self.encoder.levels_of(image)]
        skips[-2:] = [block(values) for block, values in zip(self.dilated, skips[-2:], strict=True)]
        values = skips.pop()
        for up, block in zip(reversed(self.up), reversed(self.decoder), strict=True):
            values = block(torch.cat([up(values), skips.pop()], dim=1))
        logits: Tensor = self.head(values)
        return logits[..., :height, :width]
