"""What all networks of super-resolution share, so that one graph serves them all."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

SCALE = 4


class Enhancer(nn.Module, ABC):
    """A network that makes a picture four times as large on each side.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> float [N, 3, 4 H, 4 W], about 0 to 1.
    """

    @property
    @abstractmethod
    def radius(self) -> int:
        """Source pixels on each side that a value depends on; tiles that overlap by twice as many are seamless."""
