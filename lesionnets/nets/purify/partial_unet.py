"""Data purification network: a U-Net of partial convolutions.

Bisla et al. 2019, section 3.3, take the network of Liu et al., "Image Inpainting for Irregular Holes Using Partial
Convolutions", ECCV 2018. It is built as in section 3 and in the appendix's table of layers of that paper. A
partial convolution sees only valid pixels, scales its result up for those that are missing, and marks as valid
what it could reach. So the holes shrink from layer to layer until none is left.

It takes images of any size: each level is enlarged to the size of the level that it is joined with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.sizes import scaled

ENCODER = ((64, 7), (128, 5), (256, 5), (512, 3), (512, 3), (512, 3), (512, 3), (512, 3))
"""PConv1 to PConv8: channels and kernel; each has the stride 2."""

DECODER = (512, 512, 512, 512, 256, 128, 64)
"""PConv9 to PConv15: channels, with the kernel 3; PConv16 makes the picture."""


class PartialConvolution(nn.Module):
    """Convolution of the valid pixels only, and which pixels are valid after it (Liu et al. 2018, eq. 1 and 2).

    The padding around the picture counts as not valid, so its zeros do not darken the border.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs, 1, 1))
        self.pool = nn.AvgPool2d(kernel, stride, kernel // 2)
        self.window = inputs * kernel * kernel

    def forward(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve.

        Args:
            values: Float [N, inputs, H, W].
            valid: Float [N, inputs, H, W], 1 where a value is valid, else 0.

        Returns:
            The result float [N, outputs, h, w], and validity float [N, 1, h, w]: 1 where any value of the window
            was valid, else 0.
        """
        # A mean, as autocast leaves pooling in float32: counts would be rounded in sixteen bits.
        share = self.pool(valid.float().mean(dim=1, keepdim=True))
        reached = (share > 0).float()
        ratio = 1 / share.clamp(min=1 / self.window)
        return (self.conv(values * valid) * ratio + self.bias) * reached, reached


class Level(nn.Module):
    """Partial convolution, optional batch norm, activation."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int, slope: float, normalise: bool
    ) -> None:
        super().__init__()
        self.conv = PartialConvolution(inputs, outputs, kernel, stride=stride)
        self.norm = nn.BatchNorm2d(outputs) if normalise else nn.Identity()
        self.slope = slope

    def forward(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """As :class:`PartialConvolution`, with validity for each output channel."""
        values, valid = self.conv(values, valid)
        values = functional.leaky_relu(self.norm(values), self.slope)
        return values, valid.expand_as(values)


class PartialUNet(nn.Module):
    """Paints what holes cover, from what surrounds them; the painter of the recipe ``purify_partial``.

    A plain convolution mixes a hole's content into its result, and blurs or darkens what it paints. Partial
    convolutions never read it (Liu et al., ECCV 2018, section 3.1, https://arxiv.org/abs/1804.07723).

    Args:
        width: Multiplies the channels of all layers; 1.0 is the paper's width.
        levels: How often the picture is halved; 8 in the paper.

    Shape:
        image float [N, 3, H, W], 0 to 1; valid float [N, 1, H, W], 1 where the image shows skin and 0 in holes ->
        the painted picture, float [N, 3, H, W], about 0 to 1, not clipped. Use it in the holes only: see
        :func:`composed`. What the image has in the holes does not matter.
    """

    def __init__(self, width: float = 1.0, levels: int = len(ENCODER)) -> None:
        super().__init__()
        channels = [3, *(scaled(count, width) for count, _ in ENCODER[:levels])]
        self.encoder = nn.ModuleList(
            Level(channels[i], channels[i + 1], kernel, stride=2, slope=0.0, normalise=i > 0)
            for i, (_, kernel) in enumerate(ENCODER[:levels])
        )
        below = channels.pop()
        self.decoder = nn.ModuleList()
        for count in DECODER[len(ENCODER) - levels :]:
            outputs = scaled(count, width)
            level = Level(below + channels.pop(), outputs, 3, stride=1, slope=0.2, normalise=True)
            self.decoder.append(level)
            below = outputs
        self.head = PartialConvolution(below + channels.pop(), 3, 3)

    def forward(self, image: Tensor, valid: Tensor) -> Tensor:
        """See the class."""
        values, known = image, valid.expand_as(image)
        skips = []
        for level in self.encoder:
            skips.append((values, known))
            values, known = level(values, known)
        for level in self.decoder:
            values, known = level(*_met(values, known, *skips.pop()))
        painted: Tensor = self.head(*_met(values, known, *skips.pop()))[0]
        return painted


def _met(values: Tensor, known: Tensor, above: Tensor, known_above: Tensor) -> tuple[Tensor, Tensor]:
    """Enlarge features and validity to the size of the level above, and join them with its own."""
    size = above.shape[-2:]
    values = functional.interpolate(values, size=size, mode="nearest")
    known = functional.interpolate(known, size=size, mode="nearest")
    return torch.cat([values, above], dim=1), torch.cat([known, known_above], dim=1)


def composed(image: Tensor, painted: Tensor, valid: Tensor) -> Tensor:
    """The image with its holes painted; valid pixels stay bit by bit. Shapes as in :class:`PartialUNet`."""
    return torch.where(valid > 0, image, painted)
