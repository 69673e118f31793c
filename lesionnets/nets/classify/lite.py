"""EfficientNet-Lite with the lesion classifier's head; our own design, from no paper.

The head is that of ``nets.classify.mobilenet``: features pooled over view and lesion, then a linear layer. Unlike
that network it is trained on views of every size, from the whole picture to the lesion. It is served as the mean
over two of them (:attr:`LiteClassifier.squares`): the lesion with its surroundings shows fine detail, and the
whole picture helps where the mask is wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.data.sources.isic import DIAGNOSES
from lesionnets.nets.classify.classifier import Classifier, Square
from lesionnets.nets.classify.mobilenet import lesion_weight
from lesionnets.nets.classify.usual import Usual
from lesionnets.nets.efficient_lite import FEATURES, EfficientLite

DEPTHS = (2, 3)
"""Levels of the encoder, besides the last, that tell unusual pictures: an eighth and a sixteenth of the sides."""
DIRECTIONS = 64
"""Principal directions in which the last maps of usual pictures differ."""


class LiteClassifier(Classifier):
    """EfficientNet-Lite that is told where the lesion is; the network of ``classify_lite``.

    Features are averaged twice, over the whole view and over the lesion's mask, and one linear layer reads both.
    Since nothing comes after it but a sum, each place's share in a diagnosis is known exactly: the class
    activation map (Zhou et al., CVPR 2016, https://arxiv.org/abs/1512.04150).

    Args:
        version: Version of the encoder, 0 to 2.
        classes: Number of diagnoses.
        size: Side of the views in pixels.
        dropout: Share of the pooled features that is dropped in training.
        judges: Whether it has a :class:`~lesionnets.nets.classify.usual.Usual`.

    Shape:
        image float [N, 3, size, size], 0 to 1; mask float [N, 1, size, size], 0 to 1
        -> logits [N, classes], embedding [N, 1280] of length 1 (pooled over the lesion),
        maps [N, classes, size / 32, size / 32], which sum to the logits minus the bias.
    """

    # At 160 pixels of 224 the lesion takes half the time and ranks no worse; the picture at 192 does.
    squares = (Square(margin=1.4, least=0.3, share=5 / 7), Square(margin=1.4, least=1.0, inside=True))
    plane = 384
    long_side = 512

    def __init__(
        self, version: int = 0, classes: int = 3, size: int = 224, dropout: float = 0.3, *, judges: bool = False
    ) -> None:
        super().__init__(size, DIAGNOSES, FEATURES)
        self.encoder = EfficientLite(version)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * FEATURES, classes)
        if judges:
            sizes = [2 * self.encoder.levels[depth] for depth in DEPTHS]
            self.usual = Usual([*sizes, FEATURES], DIRECTIONS)

    @property
    def stages(self) -> list[nn.Module]:
        """What VisualBackProp reads: the last maps of each resolution that end in a ReLU6, shallow first."""
        inner = (self.encoder.blocks[end + 1].get_submodule("expand") for end in self.encoder.ends[:-1])
        return [*inner, self.encoder.head]

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        return self._diagnose(self.encoder(image), mask)

    def look(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As ``forward``, and the traits float [N, F] of a picture: means and deviations of maps."""
        levels = self.encoder.levels_of(image)
        features = self.encoder.head(levels[-1])
        traits = [_moments(levels[depth]) for depth in DEPTHS]
        return *self._diagnose(features, mask), torch.cat([*traits, features.mean(dim=(2, 3))], dim=1)

    def _diagnose(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight = lesion_weight(mask, features.shape[-2:])
        lesion = (features * weight).sum(dim=(2, 3))
        pooled = torch.cat([features.mean(dim=(2, 3)), lesion], dim=1)
        by_whole, by_lesion = self.head.weight[:, :, None, None].chunk(2, dim=1)
        places = features.shape[2] * features.shape[3]
        maps = functional.conv2d(features, by_whole) / places + functional.conv2d(features, by_lesion) * weight
        return self.head(self.dropout(pooled)), functional.normalize(lesion, dim=1), maps


def _moments(maps: Tensor) -> Tensor:
    """Mean and standard deviation of each channel of maps [N, C, h, w] over the picture: float [N, 2 C]."""
    mean = maps.mean(dim=(2, 3))
    spread = (maps - mean[:, :, None, None]).square().mean(dim=(2, 3)).sqrt()
    return torch.cat([mean, spread], dim=1)
