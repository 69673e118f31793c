"""One-shot segmentation across domains (CD-FSS).

Wang et al., "Cross-domain few-shot learning for rare-disease skin lesion segmentation", section 2.2 and fig. 2.
The features of a support image are averaged over its mask (eq. 1) into prototypes. A generic and a specific
learner compare these with every pixel of the query image, and a decoder turns what both found into a mask. What
the text leaves open is settled in docs/decisions/0042.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.segment.extractors import extractor
from lesionnets.nets.sizes import scaled

DILATIONS = (1, 2, 4)
"""Dilations of the layers that widen the view of the general features (E_dila)."""

Domain = Literal["specific", "generic"]


def masked_average(features: Tensor, mask: Tensor) -> Tensor:
    """The mean of features over a mask, float [N, C] (eq. 1).

    The paper enlarges the features to the mask's size. Here the mask is reduced to the features' size by area. The
    mean is the same except that features do not spread beyond their own cells, and it costs a sixteenth or less.

    Args:
        features: Float [N, C, h, w].
        mask: Float [N, 1, H, W], 0 to 1.
    """
    share = functional.adaptive_avg_pool2d(mask, (features.shape[-2], features.shape[-1]))
    return (features * share).sum(dim=(2, 3)) / share.sum(dim=(2, 3)).clamp_min(1e-6)


def convolutions(channels: tuple[int, ...], dilations: tuple[int, ...]) -> nn.Sequential:
    """3 x 3 convolutions that keep the size, each with a ReLU."""
    layers: list[nn.Module] = []
    for (inputs, outputs), dilation in zip(pairwise(channels), dilations, strict=True):
        conv = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        layers += [conv, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Learner(nn.Module):
    """Compares the features of a query with prototypes at every pixel (L_ge, L_sp).

    Args:
        features: Channels of the features.
        outputs: Channels of the output.
        aided: Whether it also takes the prototype of what surrounds the object, and the cosines of both with every
            pixel.
        dilations: Dilations of the convolutions.
    """

    def __init__(self, features: int, outputs: int, *, aided: bool, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.aided = aided
        inputs = 3 * features + 2 if aided else 2 * features
        self.layers = convolutions((inputs, *(outputs,) * len(dilations)), dilations)

    def forward(self, features: Tensor, prototypes: Tensor) -> Tensor:
        """Float [N, C, h, w] and [N, C or 2 C] -> [N, outputs, h, w]."""
        known = prototypes[:, :, None, None]
        joined = [features, known.expand(-1, -1, *features.shape[-2:])]
        if self.aided:
            joined += [cosines(features, part) for part in known.chunk(2, dim=1)]
        found: Tensor = self.layers(torch.cat(joined, dim=1))
        return found


def cosines(features: Tensor, prototype: Tensor) -> Tensor:
    """Cosine of the angle between each pixel's features and a prototype, [N, 1, h, w]; 0 if one has length 0."""
    lengths = features.square().sum(dim=1, keepdim=True) * prototype.square().sum(dim=1, keepdim=True)
    return (features * prototype).sum(dim=1, keepdim=True) / (lengths + 1e-6).sqrt()


class Standard(nn.Module):
    """Standardises features to mean 0 and deviation 1, channel by channel; fitted once, before training.

    An encoder without batch norm returns values of several units; learners start far better from about 1.

    Args:
        channels: Number of channels of the features.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def fit(self, features: Tensor) -> None:
        """Compute mean and deviation from features [N, C, h, w]."""
        self.mean.copy_(features.mean(dim=(0, 2, 3)))
        self.scale.copy_(features.std(dim=(0, 2, 3)) + 1e-3)

    def forward(self, features: Tensor) -> Tensor:
        """Float [N, C, h, w] -> the same."""
        return (features - self.mean[:, None, None]) / self.scale[:, None, None]


class OneShot(nn.Module):
    """Finds lesions of a kind that it is shown once; the network of the recipe ``segment_oneshot``.

    It is not trained to know a disease but to compare: a support image with its mask says what to look for, and
    every pixel of the query is compared with that. So a kind it never saw needs no training, only one drawn mask.

    Args:
        backbone: ``lite`` for EfficientNet-Lite0, or ``vgg`` for the paper's VGG-16.
        width: Multiplies the channels of all layers except EfficientNet-Lite's; with ``vgg``, 1.0 is the paper's
            width.
        aided: See :class:`Learner`; the paper's learners are not aided.
        size: Side in pixels of the square pictures that it is trained on and served with; a multiple of 16.
        guided: Whether it reads the prototypes. If not, it is the network without few-shot learning of table 1.
        unseen: Diagnosis that it was never trained on.

    Attributes:
        temperature: Float scalar, fitted after training: logits divided by it are calibrated.

    Shape:
        image float [N, 3, size, size], 0 to 1, prototypes [N, P] -> logits [N, 1, size, size].
    """

    graph = "one_shot"
    samples = 2
    long_side = 512
    temperature: Tensor
    frozen = False

    def __init__(
        self,
        backbone: str = "lite",
        width: float = 1.0,
        *,
        aided: bool = True,
        size: int = 160,
        guided: bool = True,
        unseen: str | None = None,
    ) -> None:
        super().__init__()
        self.size, self.aided, self.guided, self.unseen = size, aided, guided, unseen
        self.extractor = extractor(backbone, width)
        low, high = self.extractor.channels
        self.standards = nn.ModuleList([Standard(low), Standard(high)])
        self.parts = scaled(32, width), scaled(64, width)
        self.dilated = convolutions((low, *(self.parts[0],) * len(DILATIONS)), DILATIONS)
        self.narrowed = nn.Conv2d(high, self.parts[1], 1)
        fine, deep = scaled(32, width), scaled(64, width)
        self.generic = Learner(self.parts[0], fine, aided=aided, dilations=(1, 1))
        self.specific = Learner(self.parts[1], deep, aided=aided, dilations=(1, 2, 4))
        self.decoder = convolutions((fine + deep, scaled(48, width), scaled(32, width)), (1, 1))
        self.head = nn.Conv2d(scaled(32, width), 4, 1)
        self.register_buffer("temperature", torch.ones(()))

    @property
    def length(self) -> int:
        """Length of a support's prototypes, P."""
        return sum(self.parts) * (2 if self.aided else 1)

    def features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """General features at a half or a quarter of the sides, and special ones at an eighth."""
        low = self.extractor.low(image)
        return self.described(low, self.extractor.high(low))

    def described(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The same from the extractor's output."""
        low, high = (standard(part) for standard, part in zip(self.standards, (low, high), strict=True))
        return self.dilated(low), self.narrowed(high)

    def standardise(self, low: Tensor, high: Tensor) -> None:
        """Fit the standardisation of the extractor's features."""
        for standard, part in zip(self.standards, (low, high), strict=True):
            assert isinstance(standard, Standard)  # noqa: S101 - for the type checker
            standard.fit(part)

    def prototypes(self, features: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Prototypes [N, P] from the result of :meth:`features` and masks float [N, 1, size, size], 0 to 1."""
        masks = (mask, 1 - mask) if self.aided else (mask,)
        return torch.cat([masked_average(part, one) for part in features for one in masks], dim=1)

    def compared(self, features: tuple[Tensor, Tensor], prototypes: Tensor) -> Tensor:
        """Logits [N, 1, size, size] from the features of queries and prototypes [N, P]."""
        copies = 2 if self.aided else 1
        if not self.guided:
            prototypes = torch.zeros_like(prototypes)
        general, special = torch.split(prototypes, [copies * part for part in self.parts], dim=1)
        fine = self.generic(features[0], general)
        deep = self.specific(features[1], special)
        deep = functional.interpolate(deep, size=fine.shape[-2:], mode="bilinear")
        logits = functional.pixel_shuffle(self.head(self.decoder(torch.cat([fine, deep], dim=1))), 2)
        return functional.interpolate(logits, size=(self.size, self.size), mode="bilinear")

    def forward(self, image: Tensor, prototypes: Tensor) -> Tensor:
        """See the class."""
        return self.compared(self.features(image), prototypes)

    def learn(self, domain: Domain) -> None:
        """Freeze what algorithm 1 freezes: L_ge and E_dila in specific learning, L_sp and E_3,4 in generic."""
        for part in (self.generic, self.dilated):
            part.requires_grad_(domain == "generic")
        for module in (self.specific, self.narrowed):
            module.requires_grad_(domain == "specific")
        if not self.frozen:
            self.extractor.deep.requires_grad_(domain == "specific")

    def freeze(self) -> None:
        """Freeze the extractor for good."""
        self.frozen = True
        self.extractor.requires_grad_(requires_grad=False)
