"""MobileNetV2 (Sandler et al., CVPR 2018) with batch norm folded in, and a lesion classifier on top of it.

The backbone takes the weights that TensorFlow trained on ImageNet (``lesionnets.nets.tflite``), so strided
convolutions are padded as TensorFlow's "SAME" does: after, not around.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.data.sources.isic import DIAGNOSES
from lesionnets.nets.classify.classifier import Classifier
from lesionnets.nets.efficient_lite import Convolution

BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Table 2 of the paper: expansion, channels, repeats, stride of the first block."""

FEATURES = 1280

EXPANSIONS = (2, 4, 7, 14)
"""Blocks that halve the size. Each expands at the previous size, and that expansion ends in a ReLU6, unlike a
block's output."""


class InvertedResidual(nn.Module):
    """Expand the channels, filter each separately, project them; with a shortcut where shapes allow (fig. 4)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        layers = [Convolution(inputs, inner, 1)] if expansion > 1 else []
        layers.append(Convolution(inner, inner, 3, stride=stride, groups=inner))
        layers.append(Convolution(inner, outputs, 1, activate=False))
        self.layers = nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:
        """Float [N, inputs, h, w] -> [N, outputs, h / stride, w / stride]."""
        result: Tensor = self.layers(values)
        return values + result if self.shortcut else result


class MobileNetV2(nn.Module):
    """The backbone, at width 1.0.

    Its blocks expand a few channels, filter each expanded channel separately and project them to a few again. That
    costs a fraction of plain convolutions of the same width (sections 3.1 to 3.3 of the paper,
    https://arxiv.org/abs/1801.04381).

    Shape:
        image float [N, 3, H, W], 0 to 1 -> features float [N, 1280, ceil(H / 32), ceil(W / 32)], 0 to 6.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [Convolution(3, 32, 3, stride=2)]
        channels = 32
        for expansion, outputs, repeats, stride in BLOCKS:
            for number in range(repeats):
                layers.append(InvertedResidual(channels, outputs, stride if number == 0 else 1, expansion))
                channels = outputs
        layers.append(Convolution(channels, FEATURES, 1))
        self.layers = nn.Sequential(*layers)

    @property
    def stages(self) -> list[nn.Module]:
        """What VisualBackProp reads: the last maps of each resolution that end in a ReLU6, shallow first."""
        return [*(self.get_submodule(f"layers.{number}.layers.0") for number in EXPANSIONS), self.layers[-1]]

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        features: Tensor = self.layers(2 * image - 1)
        return features


class LesionClassifier(Classifier):
    """Diagnosis of a lesion from a crop around it and its mask; the network of ``classify_mobilenet``.

    Features are pooled twice, over the whole crop and over the lesion alone, and one linear layer reads both. So
    the share of every place in a class's logit is known exactly: this is the class activation map (Zhou et al.,
    CVPR 2016, eq. 2, https://arxiv.org/abs/1512.04150). If the mask is empty, the lesion's pool is that of the
    whole crop.

    Args:
        classes: Number of diagnoses.
        size: Side of the crop in pixels.
        dropout: Share of the pooled features that is dropped in training.

    Shape:
        image float [N, 3, size, size], 0 to 1; mask float [N, 1, size, size], 0 to 1
        -> logits [N, classes], embedding [N, 1280] of length 1 (the lesion's pooled features),
        maps [N, classes, size / 32, size / 32], which sum to the logits minus the bias.
    """

    def __init__(self, classes: int = 3, size: int = 224, dropout: float = 0.3) -> None:
        super().__init__(size, DIAGNOSES, FEATURES)
        self.backbone = MobileNetV2()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * FEATURES, classes)

    @property
    def stages(self) -> list[nn.Module]:
        """What VisualBackProp reads: the stages of the backbone."""
        return self.backbone.stages

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        return self.read_features(self.backbone(image), mask)

    def read_features(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The part after the backbone: ``forward`` for features that were computed before."""
        whole = features.mean(dim=(2, 3))
        weight = lesion_weight(mask, features.shape[-2:])
        lesion = (features * weight).sum(dim=(2, 3))
        logits = self.head(self.dropout(torch.cat([whole, lesion], dim=1)))
        weights = self.head.weight[:, :, None, None]
        by_whole, by_lesion = weights[:, :FEATURES], weights[:, FEATURES:]
        places = features.shape[2] * features.shape[3]
        maps = functional.conv2d(features, by_whole) / places + functional.conv2d(features, by_lesion) * weight
        return logits, functional.normalize(lesion, dim=1), maps


def lesion_weight(mask: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """The share of each place of a feature map in the lesion; the shares sum to 1 and are equal without a lesion.

    Args:
        mask: Float [N, 1, H, W], 0 to 1.
        size: Height and width of the feature map; H and W are multiples of them.

    Returns:
        Float [N, 1, *size].
    """
    kernel = (mask.shape[2] // size[0], mask.shape[3] // size[1])
    # A trace of weight everywhere is what is left over, and so all, where the mask is empty.
    share = functional.avg_pool2d(mask, kernel) + 1e-4
    return share / share.sum(dim=(2, 3), keepdim=True)
