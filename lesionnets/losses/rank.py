"""Rank loss of MB-DCNN (Xie et al., IEEE TMI 2020): hard lesion pixels above hard background pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from lesionnets.losses.overlap import dice_loss

HARDEST, MARGIN, WEIGHT = 30, 0.3, 0.05
"""The paper's number of pixels of each kind in an image, their margin, and the loss's weight relative to Dice."""


def rank_loss(logits: Tensor, target: Tensor, *, hardest: int = HARDEST, margin: float = MARGIN) -> Tensor:
    """Mean of max(0, p_background - p_lesion + margin) over pairs of the hardest pixels and over the images.

    The hardest background pixels have the greatest probability of being lesion, the hardest lesion pixels the
    least. If an image has fewer of a kind, all of them are taken; if it has none of a kind, its loss is 0.

    Args:
        logits: [N, 1, H, W], before the sigmoid.
        target: [N, 1, H, W]; lesion where it is at least one half.
        hardest: Pixels of each kind.
        margin: By how much the probability of a lesion pixel should exceed that of a background pixel.

    Returns:
        Scalar, 0 to 1 + margin; float32.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> logits = torch.tensor([[[[20.0, -20.0]]]])
        >>> rank_loss(logits, torch.tensor([[[[1.0, 0.0]]]])).item()
        0.0
    """
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape")
    probability = logits.float().sigmoid().flatten(1)
    is_lesion = target.flatten(1) >= 0.5
    count = min(hardest, probability.shape[1])
    # Infinities stand where an image has too few: their pairs cost nothing.
    background = probability.masked_fill(is_lesion, -torch.inf).topk(count).values
    lesion = probability.masked_fill(~is_lesion, torch.inf).topk(count, largest=False).values
    costs = (background[:, :, None] - lesion[:, None, :] + margin).clamp(min=0).sum(dim=(1, 2))
    pairs = background.isfinite().sum(dim=1) * lesion.isfinite().sum(dim=1)
    return (costs / pairs.clamp(min=1)).mean()


def dice_rank_loss(logits: Tensor, target: Tensor, *, rank_weight: float = WEIGHT) -> Tensor:
    """The loss of coarse-SN and enhanced-SN: Dice plus weighted rank loss. Arguments as in :func:`rank_loss`."""
    return torch.add(dice_loss(logits, target), rank_loss(logits, target), alpha=rank_weight)
