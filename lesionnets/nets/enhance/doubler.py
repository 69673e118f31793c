"""Super-resolution, x2, at half the resolution of what is enlarged.

Two by two pixels are twelve channels of one (the reverse of the pixel shuffle; Shi et al., "Real-Time Single Image
and Video Super-Resolution", CVPR 2016, section 3; for denoising: Zhang et al., "FFDNet", IEEE TIP 2018, section
III-B, https://arxiv.org/abs/1710.04026). All convolutions see a quarter of the pixels, each of them twice as wide
around. As :class:`~lesionnets.nets.enhance.espcn.Espcn` the network predicts what bicubic interpolation misses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.byte_conv import ByteConv2d
from lesionnets.nets.enhance.enhancer import Enhancer
from lesionnets.nets.enhance.espcn import ResidualBlock, bicubic_line

DOUBLE = 2
"""Output over input resolution; and input over inner resolution."""
FRAME = 2
"""Pixels that a picture is continued by on each side, by its border: as many as interpolation sees."""
_MIDDLE = 128 / 255
_COLOURS = 3
_SPREAD = DOUBLE * DOUBLE  # values on each side that an inner pixel becomes


def bicubic_doubling() -> Tensor:
    """Weights of bicubic interpolation x2 as a convolution that makes 4 x 4 values of each 2 x 2 pixels.

    Returns:
        Float32 [16, 4, 3, 3]: one kernel for each value, row-major, over the channels of a pixel unshuffle.
    """
    phases = bicubic_line(DOUBLE)
    taps = phases.shape[1]
    line = torch.zeros(_SPREAD, 3 * DOUBLE, dtype=torch.float64)  # from one inner pixel before to one behind
    for value in range(_SPREAD):
        pixel, phase = divmod(value, DOUBLE)
        line[value, pixel : pixel + taps] = phases[phase]
    kernels = torch.einsum("ai,bj->abij", line, line).reshape(_SPREAD**2, 3, DOUBLE, 3, DOUBLE)
    return kernels.permute(0, 2, 4, 1, 3).reshape(_SPREAD**2, DOUBLE**2, 3, 3).float()


class Doubler(Enhancer):
    """Super-resolution x2 that works at half resolution, for lesions that are enlarged at most twice.

    Pixels come in as 2 x 2 x 3 channels, so the convolutions run over a
    quarter of the pixels (pixel unshuffle; Zhang et al., FFDNet, IEEE TIP 2018, https://arxiv.org/abs/1710.04026).
    Before any training it is bicubic interpolation.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> float [N, 3, 2 H, 2 W], about 0 to 1; H and W even.

    Args:
        channels: Feature maps, at half the resolution.
        blocks: Residual blocks.
    """

    scale = DOUBLE
    grid = DOUBLE

    def __init__(self, channels: int = 32, blocks: int = 3) -> None:
        super().__init__()
        self.channels, self.blocks = channels, blocks
        inner = _COLOURS * DOUBLE**2
        self.stem = ByteConv2d(inner, channels, 3, rectified=True, framed=True)
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.head = ByteConv2d(channels, _COLOURS * _SPREAD**2, 3)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.register_buffer("doubling", bicubic_doubling().repeat(_COLOURS, 1, 1, 1), persistent=False)

    @property
    def radius(self) -> int:
        """See :class:`Enhancer`; wherever the value lies in its 2 x 2 pixels."""
        return DOUBLE * (2 + 2 * self.blocks) + DOUBLE - 1

    def sub_pixels(self, framed: Tensor) -> Tensor:
        """What each 2 x 2 pixels become.

        Args:
            framed: Float [N, 12, h + 2, w + 2], 0 to 1: the picture, continued by ``FRAME``, as channels by
                colour, then row and column.

        Returns:
            Float [N, 48, h, w]: by colour, then row and column of the 4 x 4 values.
        """
        smooth = functional.conv2d(framed, self.get_buffer("doubling"), groups=_COLOURS)
        # Centred, or all of the first features soon lie below the ReLU; by a whole level, so that bytes are exact.
        features = functional.relu(self.stem(framed - _MIDDLE))
        detailed: Tensor = smooth + self.head(features + self.body(features))
        return detailed

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve; see the class."""
        framed = functional.pad(x, (FRAME,) * 4, mode="replicate")
        return functional.pixel_shuffle(self.sub_pixels(functional.pixel_unshuffle(framed, DOUBLE)), _SPREAD)
