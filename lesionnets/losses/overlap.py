"""Losses for binary segmentation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def dice_loss(logits: Tensor, target: Tensor, *, smooth: float = 1.0) -> Tensor:
    """Soft Dice loss (Milletari et al., V-Net, 3DV 2016, eq. 2 with plain sums), mean over the images.

    Args:
        logits: [N, 1, H, W], before the sigmoid.
        target: [N, 1, H, W], 0 to 1.
        smooth: Added to numerator and denominator, so that an empty image does not divide by zero.

    Returns:
        Scalar, 0 to 1; float32 whatever the inputs are.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> dice_loss(torch.full((1, 1, 2, 2), 20.0), torch.ones(1, 1, 2, 2)).item() < 1e-6
        True
    """
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape")
    probability = logits.float().sigmoid().flatten(1)
    truth = target.float().flatten(1)
    overlap = (probability * truth).sum(dim=1)
    total = probability.sum(dim=1) + truth.sum(dim=1)
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


def bce_dice_loss(logits: Tensor, target: Tensor, *, dice_weight: float = 1.0) -> Tensor:
    """Binary cross-entropy plus soft Dice loss.

    Args:
        logits: [N, 1, H, W], before the sigmoid.
        target: [N, 1, H, W], 0 to 1; shares on the border are fine.
        dice_weight: Weight of the Dice loss relative to the cross-entropy.

    Returns:
        Scalar >= 0, float32.

    Raises:
        ValueError: If the shapes differ.
    """
    dice = dice_loss(logits, target)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits.float(), target.float())
    return torch.add(cross_entropy, dice, alpha=dice_weight)
