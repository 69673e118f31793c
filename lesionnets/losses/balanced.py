"""Cross-entropy for classes of very different size, of images and of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def class_weights(labels: Sequence[int], classes: int) -> Tensor:
    """Weights in inverse proportion to the classes' frequencies; their mean over the samples is 1.

    Args:
        labels: Index of every training sample's class.
        classes: Number of classes; one without samples gets the weight 0.

    Returns:
        Float [classes].
    """
    counts = torch.bincount(torch.tensor(labels), minlength=classes).float()
    present = counts > 0
    return torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), torch.zeros(()))


def balanced_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Class-weighted cross-entropy: every class counts the same, however few its samples.

    The weighted sum is divided by the size of the batch, not by the sum of its weights. Otherwise a batch that
    happens to hold only one class would count as much as one that holds all.

    Args:
        logits: [N, C].
        labels: [N] indices.
        weights: [C], of :func:`class_weights`.
        smoothing: Share of every label that is spread over all classes (Szegedy et al., CVPR 2016, sec. 7).

    Returns:
        Scalar >= 0, float32.

    Raises:
        ValueError: If the batch sizes or the numbers of classes differ.
    """
    if logits.shape[0] != labels.shape[0] or logits.shape[1] != weights.shape[0]:
        raise ValueError(
            f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)} and {len(weights)} weights do not fit"
        )
    losses = functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)
    return (losses * weights[labels]).mean()


def balanced_pixel_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Class-balanced cross-entropy of pixels (US 2018/0130203 A1, eq. 1), over the number of pixels.

    A lesion pixel has the share of background in its image as its weight, a background pixel the share of lesion,
    so both kinds have the same weight in sum. An image of only one kind costs nothing.

    Args:
        logits: [N, C, H, W], before the sigmoid; several maps are each compared with the target.
        target: [N, 1, H, W], 0 to 1.

    Returns:
        Scalar >= 0, float32; the mean over images and maps.

    Raises:
        ValueError: If the sizes differ.
    """
    if logits.shape[0] != target.shape[0] or logits.shape[2:] != target.shape[2:] or target.shape[1] != 1:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit")
    truth = target.float().expand(logits.shape)
    background = 1 - truth.mean(dim=(2, 3), keepdim=True)
    weight = truth * background + (1 - truth) * (1 - background)
    return functional.binary_cross_entropy_with_logits(logits.float(), truth, weight=weight)
