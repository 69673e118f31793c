"""Bisla's data purification network as the purify stage needs it: a finder of holes and a painter.

The network of partial convolutions needs a mask of holes, but the stage gets only an image. So a small U-Net finds
what covers the skin, and the painter sees the rest (docs/decisions/0022).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from lesionnets.nets.purify.folded import FoldedUNet
from lesionnets.nets.purify.partial_unet import PartialUNet, composed

HOLE = 0.2
"""Occlusion probability from which a pixel is hidden from the painter."""

MARGIN = 2
"""Pixels by which holes are grown, because otherwise the painter would continue a hair's blurred edge."""


class PartialPurifier(FoldedUNet):
    """Occlusion map and clean picture of an RGB image: this U-Net makes the map, its painter the picture.

    Args:
        width: Multiplies the channels of the painter; 1.0 is the paper's width.
        widths: Channels of each level of the finder, finest first. The sides of the input must be multiples of
            ``stride``.
        levels: Number of the painter's levels; the paper has 8.
    """

    def __init__(self, width: float, widths: Sequence[int], levels: int = 8) -> None:
        super().__init__(widths, 1)
        self.painter = PartialUNet(width, levels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As :class:`~lesionnets.nets.purify.purifier.Purifier`; the image itself where nothing is found."""
        logits = self.maps(x)
        valid = 1 - grown((logits.float().sigmoid() >= HOLE).float())
        return logits, composed(x, self.painter(x, valid).float(), valid)


def grown(hole: Tensor) -> Tensor:
    """Grow holes by their margin; float [N, 1, H, W], 0 or 1 -> the same."""
    return functional.max_pool2d(hole, 2 * MARGIN + 1, stride=1, padding=MARGIN)
