"""MB-DCNN's parts on an EfficientNet-Lite0 with frozen first layers, to be trained in minutes on one core.

The frozen layers' output for a picture never changes. It can be kept, and then a training step costs a tenth
(:mod:`benchmarks.bootstrapping`). So each part takes what :class:`Front` returns instead of the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.classify.mobilenet import lesion_weight
from lesionnets.nets.efficient_lite import FEATURES, EfficientLite
from lesionnets.nets.mutual.mb_dcnn import SpatialPyramid, convolution
from lesionnets.nets.mutual.mb_dcnn_mobile import PYRAMID, REFINED
from lesionnets.nets.segment.unet_mobilenet import separable
from lesionnets.nets.sizes import resized

FINE, DEEP = (2, 24), (10, 112)
"""The encoder's last blocks at a quarter and at a sixteenth of the picture's sides, with their channels."""


class Front(nn.Module):
    """The frozen first layers of the encoder.

    Args:
        encoder: An encoder with ImageNet's weights; its first layers are shared, not copied.

    Shape:
        image float [N, 3, S, S], 0 to 1, S a multiple of 32 -> fine [N, 24, S / 4, S / 4] and deep
        [N, 112, S / 16, S / 16].
    """

    def __init__(self, encoder: EfficientLite) -> None:
        super().__init__()
        self.stem, self.blocks = encoder.stem, encoder.blocks[: DEEP[0] + 1]
        self.requires_grad_(requires_grad=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        values = self.stem((255 * image - 127) / 128)
        fine = values
        for number, block in enumerate(self.blocks):
            values = block(values)
            fine = values if number == FINE[0] else fine
        return fine, values


class LiteMaskCN(nn.Module):
    """mask-CN: the encoder's last blocks, which are given the lesion's mask, and a head.

    The mask is used twice, as in :class:`~lesionnets.nets.mutual.mb_dcnn_mobile.MobileMaskCN`: a convolution that
    starts as the identity joins it with the features, and features are pooled over the lesion as well as over the
    whole picture.

    Args:
        encoder: An encoder with ImageNet's weights; its last layers are shared, not copied.
        classes: Number of diagnoses.

    Shape:
        deep, as :class:`Front` returns it, and mask float [N, 1, S / 4, S / 4], 0 to 1 -> logits [N, classes] and
        class activation maps [N, classes, S / 32, S / 32].
    """

    def __init__(self, encoder: EfficientLite, classes: int = 3) -> None:
        super().__init__()
        self.told = nn.Conv2d(DEEP[1] + 1, DEEP[1], 1, bias=False)
        nn.init.dirac_(self.told.weight)
        self.taught = nn.Sequential(*encoder.blocks[DEEP[0] + 1 :], encoder.head)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(2 * FEATURES, classes)

    def forward(self, deep: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        small = functional.interpolate(mask, size=deep.shape[-2:], mode="area")
        features = self.taught(self.told(torch.cat([deep, small], dim=1)))
        weight = lesion_weight(mask, features.shape[-2:])
        pooled = torch.cat([features.mean(dim=(2, 3)), (features * weight).sum(dim=(2, 3))], dim=1)
        whole, lesion = self.head.weight[:, :, None, None].chunk(2, dim=1)
        places = features.shape[2] * features.shape[3]
        maps = functional.conv2d(features, whole) + functional.conv2d(features, lesion) * weight * places
        return self.head(self.dropout(pooled)), maps


class LiteSN(nn.Module):
    """coarse-SN and enhanced-SN: DeepLabv3+'s pyramid and decoder, given the place where mask-CN looked, or zeros.

    Shape:
        fine and deep, as :class:`Front` returns them, and where float [N, 1, h, w], 1 at its greatest -> logits of
        lesion [N, 1, S, S].
    """

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = SpatialPyramid(DEEP[1], PYRAMID)
        self.told = nn.Conv2d(PYRAMID + 1, PYRAMID, 1, bias=False)
        nn.init.dirac_(self.told.weight)
        self.fine = convolution(FINE[1], REFINED)
        self.decoder = nn.Sequential(
            separable(PYRAMID + REFINED, PYRAMID), separable(PYRAMID, PYRAMID), nn.Conv2d(PYRAMID, 1, 1)
        )

    def forward(self, fine: Tensor, deep: Tensor, where: Tensor) -> Tensor:
        """See the class."""
        where = resized(where, deep)
        deep = self.told(torch.cat([self.pyramid(deep), where], dim=1)).relu()
        deep = functional.interpolate(deep, scale_factor=4.0, mode="bilinear", align_corners=False)
        logits: Tensor = self.decoder(torch.cat([deep, self.fine(fine)], dim=1))
        return functional.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False)
