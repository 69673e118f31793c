"""VGG-16 with deep side layers (US 2018/0130203 A1, paragraphs 0046 to 0061, fig. 3 and 4).

It has the convolutions of VGG-16 (Simonyan and Zisserman, ICLR 2015) and one more, conv5_4. Five of them have a
side layer of 16 maps, which a deconvolution enlarges to the image's size. Weighted concatenations of four side
layers each make a border map (from the early ones) and a lesion feature map (from the deep ones), and both
together the final score. The network looks at three scales with the same weights. What the text leaves open is
settled in docs/decisions/0018.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.classify.resnet import normalised
from lesionnets.nets.segment.segmenter import Segmenter
from lesionnets.nets.sizes import padded, scaled

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""VGG-16: channels and number of convolutions between poolings."""

SIDES = ("conv2_2", "conv3_3", "conv4_3", "conv5_3", "conv5_4")
STRIDES = (2, 4, 8, 16, 16)
BORDER = (0, 1, 2, 3)
"""Side layers of the border map (0059)."""
FEATURE = (1, 2, 3, 4)
"""Side layers of the lesion feature map (0059)."""
SCALES = (0.5, 1.0, 1.5)
MAPS = 16


class Scores(NamedTuple):
    """Logits of being lesion at every pixel, all at the image's size.

    Attributes:
        score: The final score map [N, 1, H, W].
        border: From the early side layers [N, 1, H, W].
        feature: From the deep side layers [N, 1, H, W].
        sides: The scores of the side layers, each for its own loss [N, 5, H, W].
    """

    score: Tensor
    border: Tensor
    feature: Tensor
    sides: Tensor


class Vgg16(nn.Module):
    """The convolutions of VGG-16, and conv5_4.

    Shape:
        image float [N, 3, H, W] -> outputs of :data:`SIDES`, strides :data:`STRIDES`.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        self.channels: list[int] = []
        """Channels of the outputs."""
        inputs = 3
        for number, (count, repeats) in enumerate(BLOCKS, start=1):
            for repeat in range(1, repeats + 1 + (number == len(BLOCKS))):
                outputs = scaled(count, width)
                layer = nn.Conv2d(inputs, outputs, 3, padding=1)
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                self.layers[f"conv{number}_{repeat}"] = layer
                if f"conv{number}_{repeat}" in SIDES:
                    self.channels.append(outputs)
                inputs = outputs

    def forward(self, image: Tensor) -> list[Tensor]:
        """See the class."""
        values, found = image, []
        for name, layer in self.layers.items():
            if name.endswith("_1") and name != "conv1_1":
                values = functional.max_pool2d(values, 2)
            values = functional.relu(layer(values))
            if name in SIDES:
                found.append(values)
        return found


class SideLayer(nn.Module):
    """A convolution to 16 maps, a deconvolution of each to the image's size, and a score (0056, 0057)."""

    def __init__(self, inputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, MAPS, 3, padding=1)
        nn.init.normal_(self.conv.weight, std=0.001)  # fig. 4B
        self.up = nn.ConvTranspose2d(MAPS, MAPS, 2 * stride, stride, padding=stride // 2, groups=MAPS, bias=False)
        with torch.no_grad():
            self.up.weight.copy_(bilinear(stride))
        self.score = nn.Conv2d(MAPS, 1, 1)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Float [N, inputs, h, w] -> maps [N, 16, H, W] and logits [N, 1, H, W]."""
        maps = self.conv(values)
        if maps.dtype == torch.bfloat16:
            # Autocast's choice; but CPUs then take ten to twenty times as long to deconvolve each map apart.
            with torch.autocast(maps.device.type, enabled=False):
                maps = self.up(maps.float()).to(maps.dtype)
        else:
            maps = self.up(maps)
        return maps, self.score(maps)


def bilinear(stride: int) -> Tensor:
    """Weights [2 * stride, 2 * stride] of a transposed convolution that interpolates bilinearly."""
    place = torch.arange(2 * stride, dtype=torch.float32)
    line = 1 - (place - (stride - 0.5)).abs() / stride
    return line[:, None] * line[None, :]


class Fusion(nn.Module):
    """Concatenates weighted side layers, and combines them linearly into one map (0056, 0061)."""

    def __init__(self, chosen: Sequence[int], weights: Sequence[float]) -> None:
        super().__init__()
        self.chosen = tuple(chosen)
        # "Found empirically": a start from which training finds them.
        self.weights = nn.Parameter(torch.tensor(weights))
        self.map = nn.Conv2d(MAPS * len(self.chosen), 1, 1)

    def forward(self, sides: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Five float [N, 16, H, W] -> the concatenation [N, 64, H, W] and the map's logits [N, 1, H, W]."""
        joined = torch.cat([sides[n] * self.weights[i] for i, n in enumerate(self.chosen)], dim=1)
        return joined, self.map(joined)


class SideLayersVgg(Segmenter):
    """Finds a lesion, its border and its shape; the network of the recipe ``segment_side_layers``.

    Early layers see fine detail and so the border, deep layers see much of the image and so the lesion. Side
    layers make both visible at the image's size and give each its own loss.

    Args:
        width: Multiplies the channels of the VGG's layers; 1.0 is the patent's width. Side layers always have 16
            maps.
        scales: Scales at which it looks at the image; their logits are averaged. ``(1.0,)`` trains three times as
            fast.
        size: Side in pixels of the square pictures that it is trained on and served with; other sizes work, too.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> :class:`Scores`.
    """

    bordered = True

    def __init__(self, width: float = 1.0, scales: Sequence[float] = SCALES, size: int = 224) -> None:
        super().__init__(size)
        self.scales = tuple(scales)
        self.vgg = Vgg16(width)
        self.sides = nn.ModuleList(
            SideLayer(count, stride) for count, stride in zip(self.vgg.channels, STRIDES, strict=True)
        )
        self.border = Fusion(BORDER, (1.0, 0.75, 0.5, 0.25))
        self.feature = Fusion(FEATURE, (0.25, 0.5, 0.75, 1.0))
        self.final = nn.Conv2d(MAPS * (len(BORDER) + len(FEATURE)), 1, 1)

    def forward(self, image: Tensor) -> Scores:
        """See the class."""
        looks = [self._look(image, scale) for scale in self.scales]
        score, border, feature, sides = (torch.stack(kind).mean(dim=0) for kind in zip(*looks, strict=True))
        return Scores(score, border, feature, sides)

    def logits(self, image: Tensor) -> Tensor:
        """The final score map [N, 1, H, W], which is computed from the border map and the lesion feature map."""
        scores: Scores = self(image)
        return scores.score

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The final score map, and the map of the early side layers, which show borders (0059)."""
        scores: Scores = self(image)
        return scores.score, scores.border

    def _look(self, image: Tensor, scale: float) -> Scores:
        size = image.shape[-2:]
        # Whole numbers only: torch.export makes a constant of a side that was a float on the way.
        hundredths = round(100 * scale)
        near = [max(side * hundredths // 100, 1) for side in size]
        looked = image
        if scale != 1.0:
            looked = functional.interpolate(image, size=near, mode="bilinear", align_corners=False)
        found = self.vgg(padded(normalised(looked), STRIDES[-1]))
        sides = [layer(values) for layer, values in zip(self.sides, found, strict=True)]
        maps = [values for values, _ in sides]
        border, border_map = self.border(maps)
        feature, feature_map = self.feature(maps)
        score = self.final(torch.cat([border, feature], dim=1))
        joined = torch.cat([score, border_map, feature_map, *(logits for _, logits in sides)], dim=1)
        joined = joined[..., : looked.shape[-2], : looked.shape[-1]]
        if scale != 1.0:
            joined = functional.interpolate(joined, size=size, mode="bilinear", align_corners=False)
        return Scores(joined[:, :1], joined[:, 1:2], joined[:, 2:3], joined[:, 3:])
