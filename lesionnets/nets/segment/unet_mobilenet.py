"""U-Net whose encoder is MobileNetV2 with ImageNet's weights, and a light decoder: our own, no paper's.

The encoder is that of ``nets.mobilenet`` without its last layer, batch norm folded in, so that the weights of
``lesionnets.nets.tflite`` fit: :func:`UNetMobileNet.load_encoder`. The decoder filters each channel apart
(depthwise separable convolutions), which keeps the whole below half a billion multiply-adds at 224 x 224. Start it
from those weights: drawn ones hardly learn without batch norm.
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
"""Layer of the backbone that ends a resolution, and its channels: a half, a quarter ... a thirty-second."""

DECODER = (160, 96, 64, 48)


def separable(inputs: int, outputs: int) -> nn.Sequential:
    """Channels filtered by 3 x 3, then mixed; batch norm and ReLU after both."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def light_decoder(levels: Sequence[int], width: float) -> tuple[nn.ModuleList, nn.Conv2d]:
    """Blocks that join an encoder's levels, deepest first, and a head whose 4 channels are 2 x 2 pixels.

    Args:
        levels: Channels of the levels, a half of the image's sides first.
        width: Of the decoder.
    """
    counts = [levels[-1], *(scaled(count, width) for count in DECODER)]
    blocks = nn.ModuleList(
        nn.Sequential(separable(below + skip, here), separable(here, here))
        for (below, here), skip in zip(pairwise(counts), levels[-2::-1], strict=True)
    )
    # The last enlargement is a pixel shuffle: a level at full resolution would cost as much as all others.
    return blocks, nn.Conv2d(counts[-1], 4, 1)


def decoded(decoder: nn.ModuleList, head: nn.Module, values: Tensor, skips: Sequence[Tensor]) -> Tensor:
    """Logits [N, 1, H, W] from the deepest level's values and the other levels, a half of the sides first."""
    for block, skip in zip(decoder, reversed(skips), strict=True):
        values = functional.interpolate(values, scale_factor=2.0, mode="nearest")
        values = block(torch.cat([values, skip], dim=1))
    return functional.pixel_shuffle(head(values), 2)


class UNetMobileNet(Segmenter):
    """U-Net on a MobileNetV2 that knows ImageNet.

    MobileNetV2's blocks widen few channels, filter each apart and narrow them again (Sandler et al., CVPR 2018,
    https://arxiv.org/abs/1801.04381), so a whole backbone costs what a few plain convolutions do. As in any U-Net,
    the maps of each resolution go to the decoder as well.

    Args:
        width: Of the decoder; the encoder is always MobileNetV2 at 1.0, of which there are weights.
        dropout: Share of the deepest level's channels dropped in training.
        size: Side of the square pictures that it is trained on and served with, pixels; others work too.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits [N, 1, H, W].
    """

    def __init__(self, width: float = 1.0, dropout: float = 0.1, size: int = 224) -> None:
        super().__init__(size)
        self.encoder = nn.Sequential(*list(MobileNetV2().layers)[: LEVELS[-1][0] + 1])
        self.dropout = nn.Dropout2d(dropout)
        self.decoder, self.head = light_decoder([count for _, count in LEVELS], width)

    def load_encoder(self, backbone: MobileNetV2) -> None:
        """Take the weights of a backbone that ``lesionnets.nets.tflite.load_mobilenet`` filled."""
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
