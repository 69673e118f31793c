"""U-Net with an EfficientNet-Lite encoder and a light decoder; our own design, from no paper.

The decoder is that of ``nets.segment.unet_mobilenet``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lesionnets.nets.efficient_lite import EfficientLite
from lesionnets.nets.segment.segmenter import Segmenter
from lesionnets.nets.segment.unet_mobilenet import decoded, light_decoder
from lesionnets.nets.sizes import padded


class UNetLite(Segmenter):
    """U-Net on an EfficientNet-Lite that knows ImageNet; the network of the recipe ``segment_lite``.

    With only 2,000 lesions to train on, features learned on a million photographs outline lesions better than
    features learned from scratch. EfficientNet-Lite (Tan and Le, ICML 2019, https://arxiv.org/abs/1905.11946) has
    such features at a small cost on a processor. The decoder filters each channel separately, because otherwise
    most of the work would be at full resolution.

    Args:
        version: Version of the encoder, 0 to 2.
        width: Multiplies the channels of the decoder.
        dropout: Share of the deepest level's channels that is dropped in training.
        size: Side in pixels of the square pictures that it is trained on and served with; other sizes work, too.

    Attributes:
        bias: Float scalar, fitted after training and added to the logits, so that one half is the best threshold.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits [N, 1, H, W].
    """

    samples = 2
    long_side = 512
    bias: Tensor

    def __init__(self, version: int = 0, width: float = 1.0, dropout: float = 0.1, size: int = 256) -> None:
        super().__init__(size)
        self.encoder = EfficientLite(version)
        self.encoder.head = nn.Identity()  # type: ignore[assignment]
        self.dropout = nn.Dropout2d(dropout)
        self.decoder, self.head = light_decoder(self.encoder.levels, width)
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        height, width = image.shape[-2:]
        skips = self.encoder.levels_of(padded(image, 32))
        logits = decoded(self.decoder, self.head, self.dropout(skips.pop()), skips)
        return logits[..., :height, :width]

    def logits(self, image: Tensor) -> Tensor:
        """The logits as served, with the bias."""
        return self(image).float() + self.bias  # type: ignore[no-any-return]
