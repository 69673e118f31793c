"""A small U-Net that finds what lies over the skin and paints what lies under it.

A U-Net (Ronneberger et al. 2015) on the image folded 2 x 2 into channels (so the widest maps are a quarter of
the pixels), with two outputs: where hair, ruler or ink covers the skin, and the picture without them. As in the
purification network of Bisla et al. (2019) it learns from pairs of covered and clean images; unlike theirs it
needs no mask as input, as it finds the mask itself.

The picture is what is found to be clean, spread over what is not, plus what the network adds. A network that
starts from the covered picture instead never quite takes a dark hair away (docs/decisions/0022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lesionnets.nets.purify.folded import FoldedUNet
from lesionnets.nets.purify.narrower import narrow, widths_of

ENOUGH = 0.25
"""Share of a window that must be valid for its mean to be believed alone."""


class Purifier(FoldedUNet):
    """One U-Net with two outputs: where hair, rulers or ink cover the skin, and the picture without them.

    It is trained on clean pictures over which occlusions were drawn, so the truth of both outputs is known. What
    it paints is what lies around a covered pixel, spread over it from coarse to fine, plus what the network adds.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits [N, 1, H, W] of being covered, and the picture [N, 3, H, W].

    Args:
        widths: Channels of each level, finest first. Sides of the input must be multiples of ``stride``.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 96)) -> None:
        super().__init__(widths, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Find and fill.

        Args:
            x: Float [N, 3, H, W], sRGB in 0 to 1.

        Returns:
            Logits [N, 1, H, W] of being occluded, and the clean picture [N, 3, H, W], about 0 to 1, not clipped.
            The picture is meant to be used where it is occluded only.
        """
        both = self.maps(x)
        logits = both[:, :1]
        return logits, spread(x, clean_share(logits), self.stride.bit_length() - 1) + both[:, 1:]

    def wider(self, state: Mapping[str, Tensor]) -> Purifier | None:
        """A network of the widths of these weights; none where they are its own, or another network's."""
        widths = widths_of(state)
        return Purifier(widths).to(self.head.weight.device) if widths not in {(), self.widths} else None

    def narrow_from(self, wide: Purifier) -> None:
        """Take the strongest channels of a trained network.

        Raises:
            UsageError: Where it has other levels, or a narrower one.
        """
        narrow(wide, self)


def clean_share(logits: Tensor) -> Tensor:
    """How far a pixel can be believed to be clean, from occlusion logits; float [N, 1, H, W], 0 to 1.

    Next to a hair lie its blurred edges, so a pixel is no cleaner than its neighbours. The power makes a pixel
    that is likely to be covered (from a quarter on) count little.
    """
    clean = 1 - F.max_pool2d(logits.float().sigmoid(), 3, stride=1, padding=1)
    cube = clean * clean * clean  # a power takes ten times as long on a processor
    return cube * cube


def spread(picture: Tensor, valid: Tensor, levels: int) -> Tensor:
    """Spread what is valid over what is not, from fine to coarse (push-pull: Gortler et al., SIGGRAPH 1996, 3.4).

    Args:
        picture: Float [N, C, H, W].
        valid: Float [N, 1, H, W], 0 to 1.
        levels: Halvings, of which both sides must be capable; the coarsest means reach over 2^(levels + 1) pixels.

    Returns:
        Float32 [N, C, H, W]: the picture where it is valid, elsewhere means of what is valid near by.
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
        pulled = trust * sums / weights.clamp(min=1e-4) + (1 - trust) * _enlarged(pulled, sums)
    return pushed[0][0] + (1 - valid) * _enlarged(pulled, picture)


def _enlarged(values: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(values, size=like.shape[-2:], mode="bilinear", align_corners=False)
