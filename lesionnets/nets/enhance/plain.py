"""Super-resolution, x4, by a sequence of plain 3 x 3 convolutions that are wider in training.

To be fast, a served network should be nothing but a few 3 x 3 convolutions of 16 channels, which fill a vector
register. Such a network learns badly. So in training each convolution is the sum of several branches, which are
all linear and are merged into one convolution afterwards (Ding et al., "RepVGG", CVPR 2021; Zhang et al.,
"Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices", ACM MM 2021).

Next to the features, the head sees filtered pictures: the strongest parts of bicubic interpolation. So before it
has learned anything, the network is bicubic interpolation to within half a level of 255. (Du et al., "Anchor-based
Plain Net for Mobile Image Super-Resolution", CVPRW 2021, start from nearest neighbours, which are coarser.)
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.enhance.enhancer import SCALE, SubPixelEnhancer
from lesionnets.nets.enhance.espcn import bicubic_phases

_COLOURS = 3
_OUTPUTS = _COLOURS * SCALE * SCALE
_MIDDLE = 0.5  # of the values: what is subtracted, so that the zeros beyond the border stand for mid grey
_REACH = 2  # of the filters, pixels on each side
_OPPONENT = ((1.0, 1.0, 1.0), (1.0, -1.0, 0.0), (1.0, 1.0, -2.0))
"""Brightness and two colour differences; a picture's fine structures are hardly visible in the latter."""
_SHARES = (8, 4, 4)
"""Number of filters for each; with fewer than four the mean is wrong."""


class Branched(nn.Module):
    """A 3 x 3 convolution as the sum of branches; [N, inputs, H, W] to [N, outputs, H, W].

    Args:
        inputs: Channels.
        outputs: Channels.
        wider: Factor by which the branch of a 1 x 1 and a 3 x 3 convolution has more channels.
        apart: Distance of its taps in pixels; with 2 it sees twice as far for the same work.
    """

    def __init__(self, inputs: int, outputs: int, *, wider: int = 4, apart: int = 1) -> None:
        super().__init__()
        self.whole = nn.Conv2d(inputs, outputs, 3)
        self.point = nn.Conv2d(inputs, outputs, 1, bias=False)
        # No bias in between: it would end at the picture's border and could not be merged.
        self.widen = nn.Conv2d(inputs, wider * outputs, 1, bias=False)
        self.narrow = nn.Conv2d(wider * outputs, outputs, 3, bias=False)
        self.keeps = inputs == outputs
        self.apart = apart

    def weights(self) -> tuple[Tensor, Tensor]:
        """Kernel [outputs, inputs, 3, 3] and bias [outputs] of the convolution that the branches add up to."""
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
        outputs, inputs = kernel.shape[:2]
        one = nn.Conv2d(inputs, outputs, 3, padding=self.apart, dilation=self.apart)
        one.weight, one.bias = nn.Parameter(kernel), nn.Parameter(bias)
        return one

    def forward(self, values: Tensor) -> Tensor:
        """Run as one convolution, also in training: merging kernels is less work than running all branches."""
        kernel, bias = self.weights()
        return functional.conv2d(values, kernel, bias, padding=self.apart, dilation=self.apart)


def _merged(block: nn.Module) -> nn.Module:
    return block.merged() if isinstance(block, Branched) else block


def interpolation(shares: tuple[int, ...] = _SHARES) -> tuple[Tensor, Tensor]:
    """The strongest parts of bicubic interpolation: filters, and what each adds to the sub-pixels.

    Args:
        shares: Numbers of filters of brightness and of the two colour differences, at most 16 each; 16 is exact.

    Returns:
        Filters float [K, 3, 5, 5] and weights float [3 x 4 x 4, K, 1, 1], K being the sum of the shares;
        sub-pixels by colour, row and column.
    """
    phases = bicubic_phases()[:, 0].flatten(1)
    left, strengths, right = torch.linalg.svd(phases, full_matrices=False)
    side = 2 * _REACH + 1
    filters, weights = [], []
    for colours, share in zip(functional.normalize(torch.tensor(_OPPONENT)), shares, strict=True):
        root = strengths[:share].sqrt()
        planes = (root[:, None] * right[:share]).reshape(share, 1, side, side)
        filters.append(planes * colours[:, None, None])
        weights.append(torch.einsum("pk,c->cpk", left[:, :share] * root, colours).reshape(_OUTPUTS, share))
    return torch.cat(filters), torch.cat(weights, dim=1)[..., None, None]


class PlainEnhancer(SubPixelEnhancer):
    """Super-resolution by a few plain convolutions, each a sum of branches during training; of ``enhance_plain``.

    Linear branches can be added up into one convolution after training. So the served network is as small as a
    plain one and learns like a larger one (re-parameterisation; Ding et al., CVPR 2021,
    https://arxiv.org/abs/2101.03697). Before any training it is nearly bicubic interpolation.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> float [N, 3, 4 H, 4 W], about 0 to 1.

    Args:
        channels: Feature maps.
        blocks: Convolutions between the first one and the head; the taps of the inner ones are two pixels apart.
    """

    def __init__(self, channels: int = 16, blocks: int = 4) -> None:
        super().__init__()
        apart = [1 if index in (0, blocks - 1) else 2 for index in range(blocks)]
        self.reach = 1 + sum(apart)
        self.stem: nn.Module = Branched(_COLOURS, channels)
        self.body = nn.ModuleList(Branched(channels, channels, apart=pixels) for pixels in apart)
        filters, weights = interpolation()
        self.filters = nn.Conv2d(_COLOURS, len(filters), 2 * _REACH + 1, bias=False)
        self.head = nn.Conv2d(len(filters) + channels, _OUTPUTS, 1)
        with torch.no_grad():
            self.filters.weight.copy_(filters)
            self.head.weight[:, : len(filters)] = weights
            self.head.weight[:, len(filters) :] *= 0.01
            self.head.bias.fill_(_MIDDLE)  # type: ignore[union-attr]

    @property
    def radius(self) -> int:
        """See :class:`Enhancer`."""
        return max(self.reach, _REACH)

    def sub_pixels(self, x: Tensor) -> Tensor:
        """See :class:`SubPixelEnhancer`."""
        x = x - _MIDDLE
        first = features = functional.relu(self.stem(x))
        for block in self.body[:-1]:
            features = functional.relu(block(features))
        features = functional.relu(self.body[-1](features) + first)
        framed = functional.pad(x, (_REACH,) * 4, mode="replicate")
        out: Tensor = self.head(torch.cat([self.filters(framed), features], dim=1))
        return out

    def merged(self) -> PlainEnhancer:
        """A copy without branches."""
        served = copy.deepcopy(self).eval()
        with torch.no_grad():
            served.stem = _merged(self.stem)
            served.body = nn.ModuleList(_merged(block) for block in self.body)
        return served
