"""Pattern discovery as in its sources: VGG-16 with bilinear pooling, next to a shallow network (S17).

The patent names no layers. Its own encoder is VGG-16 ([0048]), and so is the network of Lin et al. (ICCV 2015),
cut after the ReLU of conv5_3 and pooled with itself (their B-CNN [D, D]). The shallow network is three
convolutions on pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lesionnets.data.sources.isic import DIAGNOSES
from lesionnets.nets.classify.pattern_classifier import PatternClassifier
from lesionnets.nets.classify.resnet import normalised
from lesionnets.nets.segment.extractors import vgg_block
from lesionnets.nets.segment.side_layers import BLOCKS
from lesionnets.nets.sizes import scaled

SHALLOW = ((32, 7, 4), (64, 5, 2), (128, 3, 2))
"""Channels, kernel and stride: to a sixteenth of the sides, as conv5_3."""


class BilinearVgg(PatternClassifier):
    """VGG-16 with bilinear pooling next to a shallow network; the network of the recipe ``classify_bilinear``.

    Bilinear pooling averages the outer product of each place's features with themselves, so the network can tell
    which features occur together, as texture does (Lin et al., ICCV 2015, section 3,
    https://arxiv.org/abs/1504.07889). The shallow network keeps what a few pixels show, such as dots and lines.

    Args:
        width: Share of the channels; 1.0 is VGG-16's, whose outer products have 512 x 512 entries.
        size: Side of the views in pixels; a multiple of 16.
        diagnoses: Names of the classes.

    Shape:
        As :class:`~lesionnets.nets.classify.pattern_classifier.PatternClassifier`, with h = w = size / 16.
    """

    def __init__(self, width: float = 1.0, size: int = 224, diagnoses: Sequence[str] = DIAGNOSES) -> None:
        shallow, deep = scaled(SHALLOW[-1][0], width), scaled(BLOCKS[4][0], width)
        super().__init__(size, diagnoses, shallow=shallow, descriptors=deep)
        blocks: list[nn.Module] = []
        for number in range(5):
            blocks += [nn.MaxPool2d(2)] * (number > 0) + [nn.Sequential(*vgg_block(number, width))]
        self.deep = nn.Sequential(*blocks)
        layers: list[nn.Module] = []
        inputs = 3
        for channels, kernel, stride in SHALLOW:
            outputs = scaled(channels, width)
            layers += [
                nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            inputs = outputs
        self.shallow = nn.Sequential(*layers)

    @property
    def stages(self) -> list[nn.Module]:
        """What VisualBackProp reads: the last ReLU of every block."""
        return [block for block in self.deep if isinstance(block, nn.Sequential)]

    def streams(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class above."""
        values = normalised(image)
        return self.shallow(values), self.deep(values)
