"""Helpers for sizes: channels at a width, sides that can be halved evenly, maps as large as others."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def scaled(channels: int, width: float) -> int:
    """Channels of a layer at a width, where 1.0 is the paper's; at least 4."""
    return max(4, round(channels * width))


def padded(values: Tensor, multiple: int) -> Tensor:
    """Pad with zeros after the last row and column, so that both sides are multiples of a number.

    Args:
        values: Float [N, C, H, W].
        multiple: The number of which both sides become multiples.

    Returns:
        Float [N, C, H', W'], with H' >= H and W' >= W.
    """
    height, width = values.shape[-2:]
    return functional.pad(values, (0, -width % multiple, 0, -height % multiple))


def resized(values: Tensor, like: Tensor) -> Tensor:
    """Maps at the height and width of other ones, bilinearly.

    Args:
        values: Float [N, C, h, w].
        like: [..., H, W].

    Returns:
        Float [N, C, H, W].
    """
    return functional.interpolate(values, size=like.shape[-2:], mode="bilinear", align_corners=False)
