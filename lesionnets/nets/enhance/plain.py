"""Super-resolution, x4, by a row of plain 3 x 3 convolutions that were wider in training.

For speed a served network should be nothing but few 3 x 3 convolutions of 16 channels, a vector of a processor
each. Such a network learns badly; so in training each of them is the sum of several branches, which are all linear
and become one convolution afterwards (Ding et al., "RepVGG", CVPR 2021; Zhang et al., "Edge-oriented Convolution
Block for Real-time Super Resolution on Mobile Devices", ACM MM 2021). The head sees the picture itself beside the
features, so that the network starts as nearest-neighbour enlargement (the anchor of Du et al., "Anchor-based Plain
Net for Mobile Image Super-Resolution", CVPRW 2021).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.enhance.enhancer import SCALE, Enhancer

_COLOURS = 3
_OUTPUTS = SCALE * SCALE * _COLOURS


class Branched(nn.Module):
    """A 3 x 3 convolution as the sum of branches; [N, inputs, H, W] to [N, outputs, H, W].

    Args:
        inputs: Channels.
        outputs: Channels.
        wider: How many times more channels the branch of a 1 x 1 and a 3 x 3 convolution has.
    """

    def __init__(self, inputs: int, outputs: int, *, wider: int = 4) -> None:
        super().__init__()
        self.whole = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.point = nn.Conv2d(inputs, outputs, 1, bias=False)
        # No bias in between: it would end at the picture's border and could not be merged.
        self.widen = nn.Conv2d(inputs, wider * outputs, 1, bias=False)
        self.narrow = nn.Conv2d(wider * outputs, outputs, 3, padding=1, bias=False)
        self.keeps = inputs == outputs

    def weights(self) -> tuple[Tensor, Tensor]:
        """Kernel [outputs, inputs, 3, 3] and bias [outputs] of the one convolution that all branches make."""
        middle = torch.zeros(1, 1, 3, 3, device=self.whole.weight.device)
        middle[..., 1, 1] = 1
        point = self.point.weight
        if self.keeps:
            point = point + torch.eye(len(point), device=point.device)[..., None, None]
        wide = torch.einsum("omhw,mi->oihw", self.narrow.weight, self.widen.weight[..., 0, 0])
        bias: Tensor = self.whole.bias  # type: ignore[assignment]
        return self.whole.weight + point * middle + wide, bias

    def merged(self) -> nn.Conv2d:
        """The one convolution, without the branches."""
        kernel, bias = self.weights()
        one = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
        one.weight, one.bias = nn.Parameter(kernel), nn.Parameter(bias)
        return one

    def forward(self, values: Tensor) -> Tensor:
        """As one convolution, in training as well: merging kernels is less work than running all branches."""
        kernel, bias = self.weights()
        return functional.conv2d(values, kernel, bias, padding=1)


def _merged(block: nn.Module) -> nn.Module:
    return block.merged() if isinstance(block, Branched) else block


class PlainEnhancer(Enhancer):
    """Super-resolution by few plain convolutions, each a sum of branches while it is trained.

    Branches that are all linear can be added up into one convolution after training: what is served is as small as
    a plain network, and learns as a larger one does (re-parameterisation; Ding et al., CVPR 2021,
    https://arxiv.org/abs/2101.03697).

    Shape:
        image float [N, 3, H, W], 0 to 1 -> float [N, 3, 4 H, 4 W], about 0 to 1.

    Args:
        channels: Feature maps.
        blocks: Convolutions between the first and the head.
    """

    def __init__(self, channels: int = 16, blocks: int = 4) -> None:
        super().__init__()
        self.blocks = blocks
        self.stem: nn.Module = Branched(_COLOURS, channels)
        self.body = nn.ModuleList(Branched(channels, channels) for _ in range(blocks))
        self.head = nn.Conv2d(channels + _COLOURS, _OUTPUTS, 1)
        with torch.no_grad():
            self.head.weight[:, _COLOURS:] *= 0.1
            self.head.weight[:, :_COLOURS] = torch.eye(_COLOURS).repeat(SCALE * SCALE, 1)[..., None, None]
            self.head.bias.zero_()  # type: ignore[union-attr]

    @property
    def radius(self) -> int:
        """See :class:`Enhancer`: one pixel a 3 x 3 convolution."""
        return 1 + self.blocks

    def sub_pixels(self, x: Tensor) -> Tensor:
        """All values of a pixel as channels, [N, 4 x 4 x 3, H, W]: row of the sub-pixel, column, colour."""
        first = functional.relu(self.stem(x - 0.5))
        features = first
        for index, block in enumerate(self.body):
            features = block(features)
            features = functional.relu(features + first if index == self.blocks - 1 else features)
        out: Tensor = self.head(torch.cat([x, features], dim=1))
        return out

    def in_levels(self) -> PlainEnhancer:
        """A copy for serving: without branches; sub-pixels in levels of 255, and a half, as bytes are cut off."""
        served = copy.deepcopy(self).eval()
        with torch.no_grad():
            served.stem = _merged(self.stem)
            served.body = nn.ModuleList(_merged(block) for block in self.body)
            served.head.weight *= 255
            served.head.bias.mul_(255).add_(0.5)  # type: ignore[union-attr]
        return served

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve.

        Args:
            x: Float [N, 3, H, W], sRGB in 0 to 1.

        Returns:
            Float [N, 3, 4 H, 4 W], about 0 to 1, not clipped.
        """
        values = self.sub_pixels(x)
        count, _, height, width = values.shape
        values = values.reshape(count, SCALE, SCALE, _COLOURS, height, width)
        return values.permute(0, 3, 4, 1, 5, 2).reshape(count, _COLOURS, SCALE * height, SCALE * width)
