"""Sizes that the networks share: channels at a width, sides that halve evenly."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def scaled(channels: int, width: float) -> int:
    """Channels of a layer in a network of another width; 1.0 is the paper's. Never fewer than 4."""
    return max(4, round(channels * width))


def padded(values: Tensor, multiple: int) -> Tensor:
    """Zeros after the last row and column, so that both sides are multiples of a number.

    Args:
        values: Float [N, C, H, W].
        multiple: Of which both sides shall be multiples.

    Returns:
        Float [N, C, H', W'].
    """
    height, width = values.shape[-2:]
    return functional.pad(values, (0, -width % multiple, 0, -height % multiple))
