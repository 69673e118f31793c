"""MB-DCNN's three networks on MobileNetV2 with ImageNet's weights: the paper's shape at a fortieth of its cost.

The parts and their connections are those of ``nets.mb_dcnn``. The backbone is one whose weights have a free
licence, because these networks hardly learn from 2,000 images without. Its last halving is replaced by dilation,
as in Xception, so maps are a sixteenth of the image. docs/decisions/0021 says why, and what else differs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.classify.mobilenet import FEATURES, InvertedResidual, MobileNetV2, lesion_weight
from lesionnets.nets.efficient_lite import Convolution
from lesionnets.nets.mutual.mask_guided import MaskGuided
from lesionnets.nets.mutual.mb_dcnn import STRIDE, SpatialPyramid, TwoScales, convolution
from lesionnets.nets.segment.unet_mobilenet import separable
from lesionnets.nets.sizes import padded, resized, scaled

DILATED = 14
"""The backbone's first layer whose maps would be a thirty-second of the image."""

FINE, DEEP = (3, 24), (17, 320)
"""The backbone's last layers at a quarter and at a sixteenth of the image, with their channels."""

PYRAMID, REFINED = 96, 32
"""Channels of the spatial pyramid and of the fine features in the decoder."""


def dilated_layers(backbone: MobileNetV2) -> list[nn.Module]:
    """The layers of a backbone, without the last halving and with dilation after it.

    A convolution with a stride reads at odd places only ("SAME" padding). Without the stride it gives the same
    values there, and the dilated convolutions after it see what they were trained on.
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


class MobileCoarseSN(TwoScales):
    """Coarse segmentation network: DeepLabv3+ on MobileNetV2, with a decoder of separable convolutions.

    Args:
        width: Multiplies the channels of pyramid and decoder. The encoder is always MobileNetV2 at 1.0, as its
            weights are.
        size: Side in pixels of the square pictures that it is trained on and served with; other sizes work, too.

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
        """Copy the weights of a backbone that ``lesionnets.nets.tflite.load_mobilenet`` filled."""
        state = backbone.layers.state_dict()
        self.encoder.load_state_dict({name: state[name] for name in self.encoder.state_dict()})

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Fine features at a quarter of the (padded) image's sides, and the pyramid's at a sixteenth."""
        fine = self.encoder[: FINE[0] + 1](padded(2 * image - 1, STRIDE))
        return fine, self.dropout(self.pyramid(self.encoder[FINE[0] + 1 :](fine)))


class MobileEnhancedSN(MobileCoarseSN):
    """Enhanced segmentation network: :class:`MobileCoarseSN` that is told where mask-CN looked.

    Before the decoder, a convolution that starts as the identity joins the localisation map with the encoder's
    features. So with a coarse-SN's weights (``load_state_dict``, ``strict=False``) it starts as that coarse-SN.

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
        where = resized(where, deep)
        return self.decode(fine, self.told(torch.cat([deep, where], dim=1)).relu(), image)


class MobileMaskCN(MaskGuided):
    """Mask-guided classification network: MobileNetV2 that sees the lesion mask twice.

    First as a fourth channel, as in the paper; the backbone's weights for it start at zero. And again when
    features are pooled, over the lesion as well as over the whole picture (as in
    ``nets.mobilenet.LesionClassifier``).

    Args:
        classes: Number of diagnoses.
        size: Side in pixels of the square pictures that it is trained on and served with; other sizes work, too.
        dropout: Share of the pooled features that is dropped in training.

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
        """Copy the weights of a backbone that ``lesionnets.nets.tflite.load_mobilenet`` filled."""
        state = backbone.layers.state_dict()
        colours = state["0.conv.weight"]
        # Zeros: until something is learned of the mask, every picture is what ImageNet taught it to see.
        state["0.conv.weight"] = torch.cat([colours, torch.zeros_like(colours[:, :1])], dim=1)
        self.backbone.load_state_dict(state)

    @property
    def stages(self) -> list[nn.Module]:
        """What VisualBackProp reads: the last maps of each resolution that end in a ReLU6, shallow first."""
        return [*(self.get_submodule(f"backbone.{number}.layers.0") for number in (2, 4, 7)), self.backbone[-1]]

    def read(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the base class; the embedding is made of the lesion's pooled features."""
        features = self.backbone(padded(torch.cat([2 * image - 1, mask], dim=1), STRIDE))
        places = features.shape[2] * features.shape[3]
        weight = lesion_weight(padded(mask, STRIDE), features.shape[-2:])
        whole, lesion = features.mean(dim=(2, 3)), (features * weight).sum(dim=(2, 3))
        logits = self.head(self.dropout(torch.cat([whole, lesion], dim=1)))
        weights = self.head.weight[:, :, None, None]
        by_lesion = functional.conv2d(features, weights[:, FEATURES:]) * weight * places
        maps = functional.conv2d(features, weights[:, :FEATURES]) + by_lesion
        return logits, functional.normalize(lesion, dim=1), maps
