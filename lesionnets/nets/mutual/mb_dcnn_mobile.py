"""MB-DCNN's three networks on MobileNetV2 with ImageNet's weights: the paper's shape at a fortieth of its cost.

The parts and what joins them are those of ``nets.mb_dcnn``; the backbone is the one of which there are weights
under a free licence, as these networks hardly learn from 2,000 images without. Its last halving is dilated, as
Xception's is: so maps are a sixteenth of the image. Why and what else differs: docs/decisions/0021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.classify.mobilenet import FEATURES, Convolution, InvertedResidual, MobileNetV2, lesion_weight
from lesionnets.nets.mutual.mask_guided import MaskGuided
from lesionnets.nets.mutual.mb_dcnn import STRIDE, SpatialPyramid, convolution
from lesionnets.nets.segment.segmenter import Segmenter
from lesionnets.nets.segment.unet_mobilenet import separable
from lesionnets.nets.sizes import padded, scaled

DILATED = 14
"""First layer of the backbone whose maps would be a thirty-second of the image."""

FINE, DEEP = (3, 24), (17, 320)
"""Layer of the backbone that ends a quarter and a sixteenth of the image, and its channels."""

PYRAMID, REFINED = 96, 32
"""Channels of the spatial pyramid and of the fine features in the decoder."""


def dilated_layers(backbone: MobileNetV2) -> list[nn.Module]:
    """The layers of a backbone, changed so that the last halving is left out and what follows is dilated.

    A convolution that strides reads at odd places only ("SAME" padding): without the stride it gives the same
    values there, and the dilated ones after it see what they have learned to see.
    """
    layers = list(backbone.layers)
    for number in range(DILATED, DEEP[0] + 1):
        block = layers[number]
        assert isinstance(block, InvertedResidual)  # noqa: S101 - for the type checker: MobileNetV2 is built so
        filters = block.layers[1]
        assert isinstance(filters, Convolution)  # noqa: S101
        step = 1 if number == DILATED else 2
        filters.stride = 1
        filters.conv.stride, filters.conv.padding, filters.conv.dilation = (1, 1), (step, step), (step, step)
    return layers


class MobileCoarseSN(Segmenter):
    """Coarse segmentation network: DeepLabv3+ on MobileNetV2, its decoder of separable convolutions.

    Args:
        width: Of pyramid and decoder; the encoder is always MobileNetV2 at 1.0, of which there are weights.
        size: Side of the square pictures that it is trained on and served with, pixels; others work too.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits of lesion [N, 1, H, W].
    """

    def __init__(self, width: float = 1.0, size: int = 224) -> None:
        super().__init__(size)
        pyramid, fine = scaled(PYRAMID, width), scaled(REFINED, width)
        self.encoder = nn.Sequential(*dilated_layers(MobileNetV2())[: DEEP[0] + 1])
        self.pyramid = SpatialPyramid(DEEP[1], pyramid)
        self.dropout = nn.Dropout2d(0.1)
        self.fine = convolution(FINE[1], fine)
        self.decoder = nn.Sequential(
            separable(pyramid + fine, pyramid), separable(pyramid, pyramid), nn.Conv2d(pyramid, 1, 1)
        )

    def load_encoder(self, backbone: MobileNetV2) -> None:
        """Take the weights of a backbone that ``lesionnets.nets.tflite.load_mobilenet`` filled."""
        state = backbone.layers.state_dict()
        self.encoder.load_state_dict({name: state[name] for name in self.encoder.state_dict()})

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        fine, deep = self.encode(image)
        return self.decode(fine, deep, image)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Fine features a quarter of the (padded) image's size, and the pyramid's, a sixteenth of it."""
        fine = self.encoder[: FINE[0] + 1](padded(2 * image - 1, STRIDE))
        return fine, self.dropout(self.pyramid(self.encoder[FINE[0] + 1 :](fine)))

    def decode(self, fine: Tensor, deep: Tensor, image: Tensor) -> Tensor:
        """Logits of both, of the image's size."""
        deep = functional.interpolate(deep, scale_factor=4.0, mode="bilinear", align_corners=False)
        logits = self.decoder(torch.cat([deep, self.fine(fine)], dim=1))
        logits = functional.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False)
        return logits[..., : image.shape[-2], : image.shape[-1]]


class MobileEnhancedSN(MobileCoarseSN):
    """Enhanced segmentation network: :class:`MobileCoarseSN` that is told where mask-CN looked.

    The localisation map joins the encoder's features before the decoder, by a convolution that begins as the
    identity: with a coarse-SN's weights (``load_state_dict``, ``strict=False``) it begins as that coarse-SN.

    Shape:
        image float [N, 3, H, W], 0 to 1; where float [N, 1, h, w] of any size, 1 at its greatest
        (:func:`lesionnets.nets.mutual.mask_guided.localisation_map`) -> logits of lesion [N, 1, H, W].
    """

    def __init__(self, width: float = 1.0, size: int = 224) -> None:
        super().__init__(width, size)
        pyramid = scaled(PYRAMID, width)
        self.told = nn.Conv2d(pyramid + 1, pyramid, 1, bias=False)
        nn.init.dirac_(self.told.weight)

    def forward(self, image: Tensor, where: Tensor) -> Tensor:  # type: ignore[override]
        """See the class."""
        fine, deep = self.encode(image)
        where = functional.interpolate(where, size=deep.shape[-2:], mode="bilinear", align_corners=False)
        return self.decode(fine, self.told(torch.cat([deep, where], dim=1)).relu(), image)


class MobileMaskCN(MaskGuided):
    """Mask-guided classification network: MobileNetV2 that sees the lesion mask twice.

    Once as a fourth colour, as the paper's does; the backbone's weights for it begin at zero. And once more when
    features are pooled, over the lesion beside the whole picture (as ``nets.mobilenet.LesionClassifier`` does).

    Args:
        classes: Number of diagnoses.
        size: Side of the square pictures that it is trained on and served with, pixels; others work too.
        dropout: Share of pooled features dropped in training.

    Shape:
        As :class:`lesionnets.nets.mutual.mask_guided.MaskGuided`.
    """

    def __init__(self, classes: int = 3, size: int = 224, dropout: float = 0.3) -> None:
        super().__init__(size, FEATURES)
        layers = dilated_layers(MobileNetV2())
        layers[0] = Convolution(4, 32, 3, stride=2)
        self.backbone = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * FEATURES, classes)

    def load_encoder(self, backbone: MobileNetV2) -> None:
        """Take the weights of a backbone that ``lesionnets.nets.tflite.load_mobilenet`` filled."""
        state = backbone.layers.state_dict()
        colours = state["0.conv.weight"]
        # Zeros: until something is learned of the mask, every picture is what ImageNet taught it to see.
        state["0.conv.weight"] = torch.cat([colours, torch.zeros_like(colours[:, :1])], dim=1)
        self.backbone.load_state_dict(state)

    @property
    def stages(self) -> list[nn.Module]:
        """What VisualBackProp reads, shallow first: the last maps of every resolution that end in a ReLU6."""
        return [*(self.get_submodule(f"backbone.{number}.layers.0") for number in (2, 4, 7)), self.backbone[-1]]

    def read(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the base class; the embedding is the lesion's pooled features."""
        features = self.backbone(padded(torch.cat([2 * image - 1, mask], dim=1), STRIDE))
        places = features.shape[2] * features.shape[3]
        weight = lesion_weight(padded(mask, STRIDE), features.shape[-2:])
        whole, lesion = features.mean(dim=(2, 3)), (features * weight).sum(dim=(2, 3))
        logits = self.head(self.dropout(torch.cat([whole, lesion], dim=1)))
        weights = self.head.weight[:, :, None, None]
        by_lesion = functional.conv2d(features, weights[:, FEATURES:]) * weight * places
        maps = functional.conv2d(features, weights[:, :FEATURES]) + by_lesion
        return logits, functional.normalize(lesion, dim=1), maps
