"""A small U-Net that finds what covers the skin and paints what lies beneath.

A U-Net (Ronneberger et al. 2015) on the image folded 2 x 2 into channels (so the widest maps are a quarter of the
pixels), with two outputs: where hair, ruler or ink covers the skin, and the picture without them. As in the
purification network of Bisla et al. (2019) it learns from pairs of covered and clean images; unlike theirs it
needs no mask as input, because it finds the mask itself.

The picture is what was found to be clean, spread over the rest, plus what the network adds. A network that starts
from the covered picture instead never quite removes a dark hair (docs/decisions/0022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lesionnets.nets.purify.folded import FoldedUNet
from lesionnets.nets.purify.narrower import narrow, widths_of
from lesionnets.nets.sizes import resized

ENOUGH = 0.25
"""Share of a window that must be valid for its mean to be used alone."""


class Purifier(FoldedUNet):
    """One U-Net with two outputs: where hair, rulers or ink cover the skin, and the picture without them.

    It is trained on clean pictures over which occlusions were drawn, so the truth is known for both outputs. A
    covered pixel is painted with what surrounds it, spread from coarse to fine, plus what the network adds.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits [N, 1, H, W] of being covered, and the picture [N, 3, H, W].

    Args:
        widths: Channels of each level, finest first. The sides of the input must be multiples of ``stride``.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 96)) -> None:
        super().__init__(widths, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Find and fill.

        Args:
            x: Float [N, 3, H, W], sRGB in 0 to 1.

        Returns:
            Logits float [N, 1, H, W] of being occluded, and the clean picture float [N, 3, H, W], about 0 to 1,
            not clipped. Use the picture only where the image is occluded.
        """
        both = self.maps(x)
        logits = both[:, :1]
        return logits, spread(x, clean_share(logits), self.stride.bit_length() - 1) + both[:, 1:]

    def wider(self, state: Mapping[str, Tensor]) -> Purifier | None:
        """A network as wide as these weights; None if they are as wide as this one or of another network."""
        widths = widths_of(state)
        return Purifier(widths).to(self.head.weight.device) if widths not in {(), self.widths} else None

    def narrow_from(self, wide: Purifier) -> None:
        """Copy the strongest channels of a wider, trained network.

        Raises:
            UsageError: If it has other levels, or a narrower one.
        """
        narrow(wide, self)


def clean_share(logits: Tensor) -> Tensor:
    """How surely a pixel is clean, from occlusion logits; float [N, 1, H, W], 0 to 1.

    A hair's edges are blurred, so a pixel is no cleaner than its neighbours. The power makes pixels count little
    if they may be covered (from a probability of a quarter on).
    """
    clean = 1 - F.max_pool2d(logits.float().sigmoid(), 3, stride=1, padding=1)
    cube = clean * clean * clean  # a power takes ten times as long on a processor
    return cube * cube


def spread(picture: Tensor, valid: Tensor, levels: int) -> Tensor:
    """Spread what is valid over what is not, from fine to coarse (push-pull: Gortler et al., SIGGRAPH 1996, 3.4).

    Args:
        picture: Float [N, C, H, W].
        valid: Float [N, 1, H, W], 0 to 1.
        levels: Number of halvings; both sides must be multiples of 2^levels. The coarsest means span
            2^(levels + 1) pixels.

    Returns:
        Float32 [N, C, H, W]: the picture where it is valid, elsewhere means of valid pixels nearby.
    """
    pushed = [(picture.float() * valid, valid)]
    for _ in range(levels):
        # Windows of 4 that overlap by half: means of 2 x 2 would show as blocks.
        sums, weights = (F.avg_pool2d(values, 4, stride=2, padding=1) for values in pushed[-1])
        pushed.append((sums, weights))
    sums, weights = pushed[-1]
    pulled = sums.mean((2, 3), keepdim=True) / weights.mean((2, 3), keepdim=True).clamp(min=1e-4)
    for sums, weights in reversed(pushed[1:]):
        trust = (weights / ENOUGH).clamp(max=1)
        pulled = trust * sums / weights.clamp(min=1e-4) + (1 - trust) * resized(pulled, sums)
    return pushed[0][0] + (1 - valid) * resized(pulled, picture)
