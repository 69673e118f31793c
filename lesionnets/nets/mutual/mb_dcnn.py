"""MB-DCNN: coarse-SN, mask-CN and enhanced-SN (Xie, Zhang, Xia and Shen, IEEE TMI 2020, arXiv 1903.03313).

Each network helps the next. coarse-SN finds a coarse mask. mask-CN sees the image and this mask, and the place
where it looked (its class activation map) tells enhanced-SN where the lesion is. They are trained in this order;
trained ones are frozen.

The segmentation networks are DeepLabv3+ (Chen et al., ECCV 2018) on the Xception of that paper with 16 middle
blocks. mask-CN is Xception (Chollet, CVPR 2017) with its last pooling left out and its last two convolutions
dilated instead, so that its maps are a sixteenth of the image, like those of the segmentation networks. All work
at 224 x 224 pixels. What the abstract leaves open is settled in docs/decisions/0018.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.mutual.mask_guided import MaskGuided
from lesionnets.nets.segment.segmenter import Segmenter
from lesionnets.nets.sizes import padded, resized, scaled

STRIDE = 16
"""Sides of an image as multiples of those of the deepest maps."""

ENTRY, MIDDLE, EXIT = (32, 64, 128, 256), 728, (1024, 1536, 2048)
PYRAMID = 256
DILATIONS = (6, 12, 18)
"""Dilations of the spatial pyramid's 3 x 3 convolutions, at stride 16."""


class SeparableConvolution(nn.Sequential):
    """Filters each channel by 3 x 3 and mixes them; batch norm after that, and optionally in between."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        before: bool = False,
        between: bool = False,
        after: bool = False,
    ) -> None:
        # A ReLU before, or after every batch norm; in place only on what nothing else reads.
        layers: list[nn.Module] = [nn.ReLU()] if before else []
        layers.append(nn.Conv2d(inputs, inputs, 3, stride, dilation, dilation, groups=inputs, bias=False))
        if between:
            layers.append(nn.BatchNorm2d(inputs))
            if after:
                layers.append(nn.ReLU(inplace=True))
        layers += [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        if after:
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class Residual(nn.Module):
    """Separable convolutions whose output is added to the input; a 1 x 1 convolution fits the input if it must."""

    def __init__(self, *layers: nn.Module, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, values: Tensor) -> Tensor:
        """Float [N, inputs, h, w] -> [N, outputs, h / stride, w / stride]."""
        return self.read(values)[0]

    def read(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """As ``forward``, and the input of the last layer: the finest features of a block with a stride."""
        last = result = values
        for layer in self.layers:
            last, result = result, layer(result)
        return result + self.shortcut(values), last


def aligned_block(inputs: int, inner: int, outputs: int, stride: int = 1) -> Residual:
    """Block of DeepLabv3+'s Xception: three separable convolutions; the last has a stride instead of a pooling."""
    return Residual(
        SeparableConvolution(inputs, inner, before=True, between=True),
        SeparableConvolution(inner, outputs, before=True, between=True),
        SeparableConvolution(outputs, outputs, before=True, between=True, stride=stride),
        inputs=inputs,
        outputs=outputs,
        stride=stride,
    )


def stem(inputs: int, first: int, second: int) -> nn.Sequential:
    """The two plain convolutions at the start of every Xception; they halve the size."""
    return nn.Sequential(
        nn.Conv2d(inputs, first, 3, 2, 1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        nn.Conv2d(first, second, 3, padding=1, bias=False),
        nn.BatchNorm2d(second),
        nn.ReLU(inplace=True),
    )


class AlignedXception(nn.Module):
    """DeepLabv3+'s encoder (its fig. 4), at stride 16.

    Shape:
        image float [N, 3, H, W] -> fine float [N, 256, H / 4, W / 4] and deep float [N, 2048, H / 16, W / 16].
    """

    def __init__(self, width: float, blocks: int) -> None:
        super().__init__()
        entry = [scaled(count, width) for count in ENTRY]
        exits = [scaled(count, width) for count in EXIT]
        middle = scaled(MIDDLE, width)
        self.stem = stem(3, *entry[:2])
        self.first = aligned_block(entry[1], entry[2], entry[2], stride=2)
        self.second = aligned_block(entry[2], entry[3], entry[3], stride=2)
        self.third = aligned_block(entry[3], middle, middle, stride=2)
        self.middle = nn.Sequential(*(aligned_block(middle, middle, middle) for _ in range(blocks)))
        self.last = aligned_block(middle, middle, exits[0])
        self.exit = nn.Sequential(
            SeparableConvolution(exits[0], exits[1], between=True, after=True),
            SeparableConvolution(exits[1], exits[1], between=True, after=True),
            SeparableConvolution(exits[1], exits[2], between=True, after=True),
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        values, fine = self.second.read(self.first(self.stem(image)))
        return fine, self.exit(self.last(self.middle(self.third(values))))


def convolution(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class SpatialPyramid(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017, arXiv 1706.05587, fig. 5)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [convolution(inputs, outputs), *(convolution(inputs, outputs, 3, rate) for rate in DILATIONS)]
        )
        # Without batch norm: its input is one value a channel, which a batch of one image cannot normalise.
        self.whole = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.ReLU(inplace=True))
        self.join = convolution(5 * outputs, outputs)

    def forward(self, values: Tensor) -> Tensor:
        """Float [N, inputs, h, w] -> [N, outputs, h, w]."""
        branches = [branch(values) for branch in self.branches]
        branches.append(self.whole(values.mean(dim=(2, 3), keepdim=True)).expand_as(branches[0]))
        joined: Tensor = self.join(torch.cat(branches, dim=1))
        return joined


class TwoScales(Segmenter, ABC):
    """What both coarse networks do alike: a decoder joins fine maps with those of a pyramid (DeepLabv3+).

    Attributes:
        fine: Reduces the channels of the fine maps.
        decoder: From both, at a quarter of the image's sides, to logits.
    """

    fine: nn.Module
    decoder: nn.Module

    @abstractmethod
    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Fine features at a quarter of the (padded) image's sides, and the pyramid's at a sixteenth."""

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        fine, deep = self.encode(image)
        return self.decode(fine, deep, image)

    def decode(self, fine: Tensor, deep: Tensor, image: Tensor) -> Tensor:
        """Logits [N, 1, H, W] from both, at the image's size."""
        deep = functional.interpolate(deep, scale_factor=4.0, mode="bilinear", align_corners=False)
        logits = self.decoder(torch.cat([deep, self.fine(fine)], dim=1))
        logits = functional.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False)
        return logits[..., : image.shape[-2], : image.shape[-1]]


class CoarseSN(TwoScales):
    """Coarse segmentation network: DeepLabv3+.

    Convolutions with several dilations look at the deepest maps side by side, so that lesions of all sizes are
    seen whole. A decoder joins them with fine maps, which have the border (Chen et al., ECCV 2018, section 3,
    https://arxiv.org/abs/1802.02611).

    Args:
        width: Multiplies the channels of all layers; 1.0 is the paper's width.
        blocks: Number of blocks in the middle of the encoder.
        size: Side in pixels of the square pictures that it is trained on and served with; other sizes work, too.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits of lesion [N, 1, H, W].
    """

    def __init__(self, width: float = 1.0, blocks: int = 16, size: int = 224) -> None:
        super().__init__(size)
        pyramid, fine = scaled(PYRAMID, width), scaled(48, width)
        self.encoder = AlignedXception(width, blocks)
        self.pyramid = SpatialPyramid(scaled(EXIT[2], width), pyramid)
        self.dropout = nn.Dropout(0.5)
        self.fine = convolution(scaled(ENTRY[3], width), fine)
        self.decoder = nn.Sequential(
            convolution(pyramid + fine, pyramid, 3),
            nn.Dropout(0.5),
            convolution(pyramid, pyramid, 3),
            nn.Dropout(0.1),
            nn.Conv2d(pyramid, 1, 1),
        )

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Fine features at a quarter of the (padded) image's sides, and the pyramid's at a sixteenth."""
        fine, deep = self.encoder(padded(2 * image - 1, STRIDE))
        return fine, self.dropout(self.pyramid(deep))


class EnhancedSN(CoarseSN):
    """Enhanced segmentation network: DeepLabv3+ that is given the place where mask-CN looked.

    The localisation map joins the encoder's features before the decoder. Weights of a trained coarse-SN load with
    ``strict=False``.

    Shape:
        image float [N, 3, H, W], 0 to 1; where float [N, 1, h, w] of any size, 1 at its greatest
        (:func:`lesionnets.nets.mutual.mask_guided.localisation_map`) -> logits of lesion [N, 1, H, W].
    """

    def __init__(self, width: float = 1.0, blocks: int = 16, size: int = 224) -> None:
        super().__init__(width, blocks, size)
        pyramid = scaled(PYRAMID, width)
        self.told = convolution(pyramid + 1, pyramid)

    def forward(self, image: Tensor, where: Tensor) -> Tensor:  # type: ignore[override]
        """See the class."""
        fine, deep = self.encode(image)
        where = resized(where, deep)
        return self.decode(fine, self.told(torch.cat([deep, where], dim=1)), image)


class MaskCN(MaskGuided):
    """Mask-guided classification network: Xception that sees the coarse mask as a fourth channel.

    Xception separates the filtering of each channel from the mixing of channels, which saves most of a
    convolution's work (Chollet, CVPR 2017, section 3, https://arxiv.org/abs/1610.02357). The mask tells it where
    to look: diagnoses have few images, and without it the network would have to learn that, too.

    Args:
        classes: Number of diagnoses.
        width: Multiplies the channels of all layers; 1.0 is the paper's width.
        blocks: Number of blocks in the middle; the paper has 8.
        size: Side in pixels of the square pictures that it is trained on and served with; other sizes work, too.

    Shape:
        As :class:`lesionnets.nets.mutual.mask_guided.MaskGuided`.
    """

    def __init__(self, classes: int = 3, width: float = 1.0, blocks: int = 8, size: int = 224) -> None:
        super().__init__(size, scaled(EXIT[2], width))
        entry = [scaled(count, width) for count in ENTRY]
        exits = [scaled(count, width) for count in EXIT]
        middle = scaled(MIDDLE, width)
        self.stem = stem(4, *entry[:2])
        self.entry = nn.ModuleList(
            [
                self._pooling_block(entry[1], entry[2], before=False),
                self._pooling_block(entry[2], entry[3]),
                self._pooling_block(entry[3], middle),
            ]
        )
        three = range(3)
        self.middle = nn.Sequential(
            *(
                Residual(
                    *(SeparableConvolution(middle, middle, before=True) for _ in three),
                    inputs=middle,
                    outputs=middle,
                )
                for _ in range(blocks)
            )
        )
        self.exit = nn.Sequential(
            Residual(
                SeparableConvolution(middle, middle, before=True),
                SeparableConvolution(middle, exits[0], before=True),
                inputs=middle,
                outputs=exits[0],
            ),
            SeparableConvolution(exits[0], exits[1], dilation=2, after=True),
            SeparableConvolution(exits[1], exits[2], dilation=2, after=True),
        )
        self.head = nn.Linear(exits[2], classes)

    @staticmethod
    def _pooling_block(inputs: int, outputs: int, *, before: bool = True) -> Residual:
        return Residual(
            SeparableConvolution(inputs, outputs, before=before),
            SeparableConvolution(outputs, outputs, before=True),
            nn.MaxPool2d(3, 2, 1),
            inputs=inputs,
            outputs=outputs,
            stride=2,
        )

    @property
    def stages(self) -> list[nn.Module]:
        """What VisualBackProp reads: layers after a ReLU at a half to a sixteenth of the image, shallow first.

        Blocks end in a sum and begin with a ReLU, so the ReLU of the next block is read.
        """
        between = [self.get_submodule(f"entry.{number}.layers.0.0") for number in (1, 2)]
        return [self.stem, *between, self.exit]

    def read(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the base class; the embedding is made of the pooled features."""
        values = self.stem(padded(torch.cat([2 * image - 1, mask], dim=1), STRIDE))
        for block in self.entry:
            values = block(values)
        features = self.exit(self.middle(values))
        maps = functional.conv2d(features, self.head.weight[:, :, None, None])
        pooled = features.mean(dim=(2, 3))
        return self.head(pooled), functional.normalize(pooled, dim=1), maps
