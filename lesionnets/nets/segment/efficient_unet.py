"""U-Net with an EfficientNet-B3 encoder (SkinSegmentSRGAN, section 3.2).

The encoder is MONAI's EfficientNet (Tan and Le, ICML 2019); the paper starts from ImageNet weights, and
:meth:`EfficientUNet.load_encoder` loads them if you have some. Section 3.2.1 asks for batch norm after each
convolution and for dropout in both paths. It does not name the decoder's channels; they are the usual 256 to 16
(docs/decisions/0018). The loss applies the sigmoid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

import torch
from monai.networks.nets.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn import functional

from dermbatch.errors import UsageError
from lesionnets.nets.classify.resnet import normalised
from lesionnets.nets.segment.segmenter import Segmenter
from lesionnets.nets.sizes import padded, scaled

BLOCKS = (
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
)
"""Table 1 of Tan and Le, B0: repeats, kernel, stride, expansion, channels, squeeze."""

WIDTH, DEPTH = 1.2, 1.4
"""Factors of width and depth that turn B0 into B3."""

SKIPS = (0, 1, 2, 4, 6)
"""Groups of blocks that end a resolution: a half, a quarter, and so on to a thirty-second."""

DECODER = (256, 128, 64, 32, 16)


class Encoder(EfficientNet):
    """EfficientNet-B3 without its classifier.

    Shape:
        image float [N, 3, H, W], sides multiples of 32 -> five tensors of 1/2, 1/4 ... 1/32 the side.
    """

    def __init__(self, width: float, depth: float) -> None:
        super().__init__(
            list(BLOCKS),
            width_coefficient=WIDTH * width,
            depth_coefficient=DEPTH * depth,
            # MONAI pads for one size; even sides are padded alike, whatever they are, and all of ours are even.
            image_size=256,
            # MONAI's momentum, 0.01, is for ImageNet's many steps: after a hundred, evaluation is still blind.
            norm=("batch", {"eps": 1e-3, "momentum": 0.1}),
        )
        self.set_swish(memory_efficient=False)  # its own autograd function, which ONNX does not know
        for name in ("_conv_head", "_conv_head_padding", "_bn1", "_avg_pooling", "_dropout", "_fc"):
            delattr(self, name)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """See the class."""
        values = self._swish(self._bn0(self._conv_stem(self._conv_stem_padding(inputs))))
        levels = []
        for number, group in enumerate(self._blocks):
            values = group(values)
            if number in SKIPS:
                levels.append(values)
        return levels


class DecoderBlock(nn.Module):
    """Doubles the size, joins the encoder's level if there is one, then two convolutions and dropout."""

    def __init__(self, inputs: int, skip: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs + skip, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
        )

    def forward(self, values: Tensor, skip: Tensor | None) -> Tensor:
        """Float [N, inputs, h, w] and [N, skip, 2 h, 2 w] -> [N, outputs, 2 h, 2 w]."""
        values = functional.interpolate(values, scale_factor=2.0, mode="nearest")
        result: Tensor = self.layers(values if skip is None else torch.cat([values, skip], dim=1))
        return result


class EfficientUNet(Segmenter):
    """U-Net on EfficientNet-B3, the segmenter of SkinSegmentSRGAN.

    EfficientNet scales depth, width and input size together. Its blocks weight their channels by the content of
    the whole picture (squeeze and excitation; Tan and Le, ICML 2019, https://arxiv.org/abs/1905.11946). It is
    larger and slower than :class:`~lesionnets.nets.segment.unet_lite.UNetLite`, and is here to repeat the paper.

    Args:
        width: Multiplies the channels of all layers; 1.0 is the paper's width.
        depth: Multiplies the number of the encoder's blocks at each resolution; 1.0 is the paper's depth.
        dropout: Share of the channels that is dropped in training, after the encoder and after each block of the
            decoder. The encoder also drops whole blocks (stochastic depth), as EfficientNet does.
        size: Side in pixels of the square pictures that it is trained on and served with; other sizes work, too.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits [N, 1, H, W].
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0, dropout: float = 0.2, size: int = 256) -> None:
        super().__init__(size)
        self.encoder = Encoder(width, depth)
        # Channels follow EfficientNet's own rounding, so they are asked for.
        levels = [self.encoder._blocks_args[number].output_filters for number in SKIPS]
        self.dropout = nn.Dropout2d(dropout)
        counts = [levels.pop(), *(scaled(count, width) for count in DECODER)]
        self.decoder = nn.ModuleList(
            DecoderBlock(below, levels.pop() if levels else 0, here, dropout) for below, here in pairwise(counts)
        )
        self.head = nn.Conv2d(counts[-1], 1, 3, padding=1)

    def load_encoder(self, state: Mapping[str, Tensor]) -> None:
        """Load weights of an EfficientNet-B3, named as in EfficientNet-PyTorch; its classifier is ignored.

        Raises:
            UsageError: If weights are missing or have another size.
        """
        # There blocks are numbered through (_blocks.5._bn0), in MONAI by group and number (_blocks.2.5._bn0).
        names = {name: re.sub(r"^_blocks\.\d+\.", "_blocks.", name) for name in self.encoder.state_dict()}
        try:
            self.encoder.load_state_dict({name: state[theirs] for name, theirs in names.items()})
        except (KeyError, RuntimeError) as error:
            raise UsageError("these weights are not those of an EfficientNet-B3 of this width") from error

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        height, width = image.shape[-2:]
        skips = self.encoder(padded(normalised(image), 32))
        values = self.dropout(skips.pop())
        for block in self.decoder:
            values = block(values, skips.pop() if skips else None)
        logits: Tensor = self.head(values)
        return logits[..., :height, :width]
