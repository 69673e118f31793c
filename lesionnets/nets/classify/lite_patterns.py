"""Pattern discovery on EfficientNet-Lite0 with ImageNet's weights, which stay as they are: our own form of S17.

The shallow network is the encoder's first blocks and one convolution, the bilinear-pooling one its other blocks
and a projection. Since the encoder learns nothing, a picture's maps are computed once, and training takes
minutes.
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
"""Of the encoder's levels those that are read."""


class Levels(NamedTuple):
    """Maps of the encoder.

    Attributes:
        eighth: Float [N, 40, size / 8, size / 8].
        sixteenth: Float [N, 112, size / 16, size / 16].
        last: Float [N, 320, size / 32, size / 32].
    """

    eighth: Tensor
    sixteenth: Tensor
    last: Tensor


class LitePatterns(PatternClassifier):
    """The network of ``classify_patterns``.

    Args:
        version: Of the encoder, 0 to 2.
        size: Side of the views, pixels; a multiple of 32.
        shallow: Length of the shallow network's descriptors.
        descriptors: Length of the others; their outer products have its square.
        dropout: Share of what is fused that is dropped in training.

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
        """Take the weights of a whole encoder."""
        self.encoder.load_state_dict(
            {name: value for name, value in whole.state_dict().items() if not name.startswith("head.")}
        )

    def completed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a checkpoint, which may leave out the encoder: it is ImageNet's then.

        Raises:
            UsageError: Where ImageNet's weights are not installed.
        """
        if not any(name.startswith("encoder.") for name in state):
            whole = EfficientLite(self.version)
            load_imagenet(whole, self.version)
            self.load(whole)
            return {f"encoder.{name}": value for name, value in self.encoder.state_dict().items()} | dict(state)
        return dict(state)

    @property
    def stages(self) -> list[nn.Module]:
        """What VisualBackProp reads: the last maps of every resolution that end in a ReLU6, shallow first."""
        return [self.encoder.blocks[end + 1].get_submodule("expand") for end in self.encoder.ends[:-1]]

    def levels(self, image: Tensor) -> Levels:
        """What the encoder says of images float [N, 3, size, size], 0 to 1."""
        found = self.encoder.levels_of(image)
        return Levels(found[EIGHTH], found[SIXTEENTH], found[LAST])

    def described(self, levels: Levels) -> tuple[Tensor, Tensor]:
        """Descriptors of both networks, as ``streams`` gives them."""
        wide = functional.interpolate(levels.last, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.shallow(levels.eighth), self.project(torch.cat([levels.sixteenth, wide], dim=1))

    def streams(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class above."""
        return self.described(self.levels(image))
