"""The base class of all super-resolution networks, so that one graph can serve any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional

SCALE = 4


class Enhancer(nn.Module, ABC):
    """A network that makes a picture several times as large on each side, four times if it does not say.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> float [N, 3, scale H, scale W], about 0 to 1.
    """

    scale = SCALE
    """Output over input resolution."""

    grid = 1
    """Tiles must begin at multiples of so many pixels, to be seamless."""

    @property
    @abstractmethod
    def radius(self) -> int:
        """Source pixels on each side that a value depends on; tiles that overlap by twice as many are seamless."""


class SubPixelEnhancer(Enhancer):
    """An enhancer that computes sub-pixels as channels and spreads them out at the end.

    So the graph can convert them to bytes first and spread out bytes, which is cheaper.
    """

    @abstractmethod
    def sub_pixels(self, x: Tensor) -> Tensor:
        """Float [N, 3, H, W], 0 to 1 -> float [N, 48, H, W]: by colour, then row and column in the pixel."""

    def merged(self) -> SubPixelEnhancer:
        """The network as it is served: the same function, in fewer steps if possible."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve.

        Args:
            x: Float [N, 3, H, W], sRGB in 0 to 1.

        Returns:
            Float [N, 3, 4 H, 4 W], about 0 to 1, not clipped.
        """
        return functional.pixel_shuffle(self.sub_pixels(x), SCALE)
