"""Pattern discovery on a frozen EfficientNet-Lite0 with ImageNet's weights; our own form of S17.

The shallow network is the encoder's first blocks and one convolution; the bilinear-pooling network is its other
blocks and a projection. Since the encoder does not learn, the maps of a picture are computed only once, and
training takes minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.data.sources.isic import DIAGNOSES
from lesionnets.nets.classify.classifier import Square
from lesionnets.nets.classify.pattern_classifier import PatternClassifier
from lesionnets.nets.efficient_lite import EfficientLite, load_imagenet

EIGHTH, SIXTEENTH, LAST = 2, 3, 4
"""Indices of the encoder's levels that are read."""


class Levels(NamedTuple):
    """Maps of the encoder at three resolutions.

    Attributes:
        eighth: Float [N, 40, size / 8, size / 8].
        sixteenth: Float [N, 112, size / 16, size / 16].
        last: Float [N, 320, size / 32, size / 32].
    """

    eighth: Tensor
    sixteenth: Tensor
    last: Tensor


class LitePatterns(PatternClassifier):
    """Finds local patterns that tell diagnoses apart; the network of the recipe ``classify_patterns``.

    It describes each place of the lesion, averages the descriptions, and reads the averages with one linear layer.
    So the share of each place in each logit is known exactly, and places that look alike and count alike form
    patterns (US 2018/0130203 A1, [0063]).

    Args:
        version: Version of the encoder, 0 to 2.
        size: Side of the views in pixels; a multiple of 32.
        shallow: Length of the shallow network's descriptors.
        descriptors: Length of the deep network's descriptors; their outer products have the square of it.
        dropout: Share of the fused features that is dropped in training.

    Shape:
        As :class:`~lesionnets.nets.classify.pattern_classifier.PatternClassifier`, with h = w = size / 16.
    """

    squares = (Square(margin=1.4, least=0.3),)
    plane = 384
    long_side = 512

    def __init__(
        self, version: int = 0, size: int = 224, shallow: int = 32, descriptors: int = 32, dropout: float = 0.3
    ) -> None:
        super().__init__(size, DIAGNOSES, shallow=shallow, descriptors=descriptors, dropout=dropout)
        self.version = version
        self.encoder = EfficientLite(version).requires_grad_(requires_grad=False)
        del self.encoder.head  # what it says of whole pictures is not asked for
        few, some, many = (self.encoder.levels[depth] for depth in (EIGHTH, SIXTEENTH, LAST))
        self.shallow = nn.Sequential(
            nn.BatchNorm2d(few), nn.Conv2d(few, shallow, 3, 2, 1, bias=False), nn.BatchNorm2d(shallow), nn.ReLU()
        )
        # Blocks end without an activation, and their channels differ in size by far. The ReLU, which Lin et al.
        # have too, keeps means in the outer products: of centred descriptors these are covariances alone.
        self.project = nn.Sequential(
            nn.BatchNorm2d(some + many), nn.Conv2d(some + many, descriptors, 1), nn.ReLU()
        )

    def load(self, whole: EfficientLite) -> None:
        """Copy the weights of a whole encoder."""
        self.encoder.load_state_dict(
            {name: value for name, value in whole.state_dict().items() if not name.startswith("head.")}
        )

    def completed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a checkpoint, completed with ImageNet's encoder if the checkpoint leaves it out.

        Raises:
            UsageError: If ImageNet's weights are not installed.
        """
        if not any(name.startswith("encoder.") for name in state):
            whole = EfficientLite(self.version)
            load_imagenet(whole, self.version)
            self.load(whole)
            return {f"encoder.{name}": value for name, value in self.encoder.state_dict().items()} | dict(state)
        return dict(state)

    @property
    def stages(self) -> list[nn.Module]:
        """What VisualBackProp reads: the last maps of each resolution that end in a ReLU6, shallow first."""
        return [self.encoder.blocks[end + 1].get_submodule("expand") for end in self.encoder.ends[:-1]]

    def levels(self, image: Tensor) -> Levels:
        """The encoder's maps of images float [N, 3, size, size], 0 to 1."""
        found = self.encoder.levels_of(image)
        return Levels(found[EIGHTH], found[SIXTEENTH], found[LAST])

    def described(self, levels: Levels) -> tuple[Tensor, Tensor]:
        """Descriptors of both networks, as ``streams`` returns them."""
        wide = functional.interpolate(levels.last, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.shallow(levels.eighth), self.project(torch.cat([levels.sixteenth, wide], dim=1))

    def streams(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class above."""
        return self.described(self.levels(image))
