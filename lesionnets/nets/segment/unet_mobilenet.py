"""U-Net with a MobileNetV2 encoder and a light decoder; our own design, from no paper.

The encoder is that of ``nets.mobilenet`` without its last layer. Batch norm is folded in, so that the weights of
``lesionnets.nets.tflite`` fit: :func:`UNetMobileNet.load_encoder`. Start from those weights: without batch norm,
random ones hardly learn. The decoder filters each channel separately (depthwise separable convolutions), which
keeps the whole below half a billion multiply-adds at 224 x 224.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.classify.mobilenet import MobileNetV2
from lesionnets.nets.segment.segmenter import Segmenter
from lesionnets.nets.sizes import padded, scaled

LEVELS = ((1, 16), (3, 24), (6, 32), (13, 96), (17, 320))
"""The backbone's last layer at each resolution, from a half to a thirty-second, and its channels."""

DECODER = (160, 96, 64, 48)


def separable(inputs: int, outputs: int) -> nn.Sequential:
    """Filter each channel by 3 x 3, then mix them; batch norm and ReLU after both."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def light_decoder(levels: Sequence[int], width: float) -> tuple[nn.ModuleList, nn.Conv2d]:
    """Blocks that join an encoder's levels, deepest first, and a head whose 4 channels become 2 x 2 pixels.

    Args:
        levels: Channels of the levels, beginning at a half of the image's sides.
        width: Multiplies the channels of the decoder.
    """
    counts = [levels[-1], *(scaled(count, width) for count in DECODER)]
    blocks = nn.ModuleList(
        nn.Sequential(separable(below + skip, here), separable(here, here))
        for (below, here), skip in zip(pairwise(counts), levels[-2::-1], strict=True)
    )
    # The last enlargement is a pixel shuffle: a level at full resolution would cost as much as all others.
    return blocks, nn.Conv2d(counts[-1], 4, 1)


def decoded(decoder: nn.ModuleList, head: nn.Module, values: Tensor, skips: Sequence[Tensor]) -> Tensor:
    """Logits [N, 1, H, W] from the deepest level and from the others, which begin at a half of the sides."""
    for block, skip in zip(decoder, reversed(skips), strict=True):
        values = functional.interpolate(values, scale_factor=2.0, mode="nearest")
        values = block(torch.cat([values, skip], dim=1))
    return functional.pixel_shuffle(head(values), 2)


class UNetMobileNet(Segmenter):
    """U-Net on a MobileNetV2 that knows ImageNet; the network of the recipe ``segment_mobilenet``.

    MobileNetV2's blocks widen a few channels, filter each separately and narrow them again (Sandler et al., CVPR
    2018, https://arxiv.org/abs/1801.04381), so the whole backbone costs as much as a few plain convolutions. As in
    any U-Net, the maps of each resolution also go to the decoder.

    Args:
        width: Multiplies the channels of the decoder. The encoder is always MobileNetV2 at 1.0, as its weights
            are.
        dropout: Share of the deepest level's channels that is dropped in training.
        size: Side in pixels of the square pictures that it is trained on and served with; other sizes work, too.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits [N, 1, H, W].
    """

    def __init__(self, width: float = 1.0, dropout: float = 0.1, size: int = 224) -> None:
        super().__init__(size)
        self.encoder = nn.Sequential(*list(MobileNetV2().layers)[: LEVELS[-1][0] + 1])
        self.dropout = nn.Dropout2d(dropout)
        self.decoder, self.head = light_decoder([count for _, count in LEVELS], width)

    def load_encoder(self, backbone: MobileNetV2) -> None:
        """Copy the weights of a backbone that ``lesionnets.nets.tflite.load_mobilenet`` filled."""
        wanted = self.encoder.state_dict()
        state = backbone.layers.state_dict()
        self.encoder.load_state_dict({name: state[name] for name in wanted})

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        height, width = image.shape[-2:]
        values = padded(2 * image - 1, 2 ** len(LEVELS))
        ends = [number for number, _ in LEVELS]
        skips: list[Tensor] = []
        for number, layer in enumerate(self.encoder):
            values = layer(values)
            if number in ends:
                skips.append(values)
        logits = decoded(self.decoder, self.head, self.dropout(skips.pop()), skips)
        return logits[..., :height, :width]
