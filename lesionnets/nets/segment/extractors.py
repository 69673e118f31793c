"""Feature extractors at two depths: general features of the first blocks, special ones of the next.

CD-FSS (Wang et al., section 2.2.1) uses the first two blocks of VGG-16, and its blocks three and four. There are
no weights of VGG under a free licence, so EfficientNet-Lite takes its place, cut at the same strides.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.classify.resnet import normalised
from lesionnets.nets.efficient_lite import EfficientLite
from lesionnets.nets.segment.side_layers import BLOCKS
from lesionnets.nets.sizes import scaled


class Extractor(nn.Module):
    """A backbone, cut into two parts.

    Attributes:
        first: E_1,2 of the paper: the part that both kinds of learning share.
        deep: E_3,4 of the paper: the part that specific learning adds.
        channels: Channels of what :meth:`low` and :meth:`high` return.
    """

    first: nn.Module
    deep: nn.Module
    channels: tuple[int, int]

    def low(self, image: Tensor) -> Tensor:
        """Float [N, 3, H, W], 0 to 1, sides multiples of 16 -> general features [N, C, H / s, W / s]."""
        raise NotImplementedError

    def high(self, low: Tensor) -> Tensor:
        """The result of :meth:`low` -> special features at an eighth of the image's sides."""
        raise NotImplementedError


def vgg_block(number: int, width: float) -> list[nn.Module]:
    """Block ``number`` (0 to 4) of VGG-16: 3 x 3 convolutions with ReLU, without the pooling after it."""
    inputs = 3 if number == 0 else scaled(BLOCKS[number - 1][0], width)
    layers: list[nn.Module] = []
    for _ in range(BLOCKS[number][1]):
        outputs = scaled(BLOCKS[number][0], width)
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
        inputs = outputs
    return layers


class Vgg(Extractor):
    """VGG-16 (Simonyan and Zisserman, ICLR 2015): general features after conv2_2, special ones after conv4_3.

    The former are at a half of the image's sides, the latter at an eighth (https://arxiv.org/abs/1409.1556).

    Args:
        width: Multiplies the channels; 1.0 is the paper's width.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.first = nn.Sequential(*vgg_block(0, width), nn.MaxPool2d(2), *vgg_block(1, width))
        self.deep = nn.Sequential(nn.MaxPool2d(2), *vgg_block(2, width), nn.MaxPool2d(2), *vgg_block(3, width))
        self.channels = scaled(BLOCKS[1][0], width), scaled(BLOCKS[3][0], width)

    def low(self, image: Tensor) -> Tensor:
        """See the class above."""
        found: Tensor = self.first(normalised(image))
        return found

    def high(self, low: Tensor) -> Tensor:
        """See the class above."""
        found: Tensor = self.deep(low)
        return found


class Lite(Extractor):
    """EfficientNet-Lite: general features at a quarter of the sides; special ones at an eighth and a sixteenth.

    Args:
        version: Version of the encoder, 0 to 2.
    """

    deep: nn.ModuleList

    def __init__(self, version: int = 0) -> None:
        super().__init__()
        whole = EfficientLite(version)
        _, quarter, eighth, sixteenth, _ = (end + 1 for end in whole.ends)
        blocks = list(whole.blocks)
        self.first = nn.Sequential(whole.stem, *blocks[:quarter])
        self.deep = nn.ModuleList(
            [nn.Sequential(*blocks[quarter:eighth]), nn.Sequential(*blocks[eighth:sixteenth])]
        )
        self.channels = whole.levels[1], whole.levels[2] + whole.levels[3]

    def low(self, image: Tensor) -> Tensor:
        """See the class above."""
        found: Tensor = self.first((255 * image - 127) / 128)
        return found

    def high(self, low: Tensor) -> Tensor:
        """See the class above; the deeper level is enlarged to the size of the other."""
        eighth = self.deep[0](low)
        sixteenth = functional.interpolate(self.deep[1](eighth), size=eighth.shape[-2:], mode="bilinear")
        return torch.cat([eighth, sixteenth], dim=1)

    def load(self, whole: EfficientLite) -> None:
        """Copy the weights of a whole encoder."""
        ours = [part for parts in (self.first, *self.deep) for part in parts.children()]
        for mine, theirs in zip(ours, (whole.stem, *whole.blocks), strict=False):
            mine.load_state_dict(theirs.state_dict())


def extractor(backbone: str, width: float) -> Extractor:
    """The extractor of a backbone, ``lite`` or ``vgg``; only the second has a width."""
    return Vgg(width) if backbone == "vgg" else Lite()
