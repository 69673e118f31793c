"""Bisla's data purification network as the purify stage needs it: a finder of holes, and the network that paints.

The network of partial convolutions takes a mask of holes and the stage gets an image only. So a small U-Net finds
what covers the skin, and the painter is shown the rest (docs/decisions/0022).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from lesionnets.nets.purify.folded import FoldedUNet
from lesionnets.nets.purify.partial_unet import PartialUNet, composed

HOLE = 0.2
"""Occlusion probability from which a pixel is not shown to the painter."""

MARGIN = 2
"""Pixels by which holes are grown: a hair's blurred edge would be painted on."""


class PartialPurifier(FoldedUNet):
    """Occlusion map and clean picture from an RGB image; the map is this U-Net's own, the picture its painter's.

    Args:
        width: Of the painter; 1.0 is the paper's.
        widths: Channels of each level of the finder, finest first. Sides of the input must be multiples of
            ``stride``.
        levels: Of the painter; 8 is the paper's.
    """

    def __init__(self, width: float, widths: Sequence[int], levels: int = 8) -> None:
        super().__init__(widths, 1)
        self.painter = PartialUNet(width, levels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As :class:`~lesionnets.nets.purify.purifier.Purifier`; where nothing is found, the image itself."""
        logits = self.maps(x)
        valid = 1 - grown((logits.float().sigmoid() >= HOLE).float())
        return logits, composed(x, self.painter(x, valid).float(), valid)


def grown(hole: Tensor) -> Tensor:
    """Holes with their margin; float [N, 1, H, W], 0 or 1, to the same."""
    return functional.max_pool2d(hole, 2 * MARGIN + 1, stride=1, padding=MARGIN)
