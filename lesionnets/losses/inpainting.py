"""Loss of the data purification network (Liu et al., ECCV 2018, section 3.3; Bisla et al. 2019, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Features = Callable[[Tensor], Sequence[Tensor]]
"""A picture float [N, 3, H, W], 0 to 1, to features of several depths: ``perceptual.PerceptualFeatures``."""


@dataclass(frozen=True)
class InpaintingTerms:
    """Parts of the loss, scalars >= 0 (eq. 2 to 6 of the paper)."""

    valid: Tensor
    hole: Tensor
    perceptual: Tensor
    style: Tensor
    variation: Tensor

    def total(self) -> Tensor:
        """The sum with the paper's weights (eq. 7), which were chosen for VGG's features."""
        return self.valid + 6 * self.hole + 0.05 * self.perceptual + 120 * self.style + 0.1 * self.variation


def inpainting_terms(painted: Tensor, clean: Tensor, valid: Tensor, features: Features) -> InpaintingTerms:
    """The terms of the loss of a painted picture.

    Args:
        painted: The network's output, float [N, 3, H, W].
        clean: Truth, float [N, 3, H, W], 0 to 1.
        valid: Float [N, 1, H, W], 1 where the network was shown the picture and 0 in holes.
        features: The paper's are VGG-16's after its first three poolings.

    Raises:
        ValueError: If shapes do not fit.
    """
    if painted.shape != clean.shape or valid.shape != clean[:, :1].shape:
        shapes = [tuple(values.shape) for values in (painted, clean, valid)]
        raise ValueError(f"painted, clean and valid have shapes that do not fit: {shapes}")
    error = (painted - clean).abs()
    composed = valid * clean + (1 - valid) * painted
    wanted = features(clean)
    outputs = [features(painted), features(composed)]
    return InpaintingTerms(
        valid=(valid * error).mean(),
        hole=((1 - valid) * error).mean(),
        perceptual=_sum(functional.l1_loss(a, b) for got in outputs for a, b in zip(got, wanted, strict=True)),
        style=_sum(
            functional.l1_loss(gram(a), gram(b)) for got in outputs for a, b in zip(got, wanted, strict=True)
        ),
        variation=hole_variation(composed, valid),
    )


def gram(features: Tensor) -> Tensor:
    """Auto-correlation of channels: float [N, C, h, w] -> [N, C, C], divided by C h w as in eq. 4."""
    batch, channels, height, width = features.shape
    flat = features.reshape(batch, channels, height * width)
    return flat @ flat.transpose(1, 2) / (channels * height * width)


def hole_variation(picture: Tensor, valid: Tensor) -> Tensor:
    """Total variation in the holes, grown by one pixel (eq. 6), divided by the number of values of the picture.

    Args:
        picture: Float [N, C, H, W].
        valid: Float [N, 1, H, W], 0 in holes.
    """
    region = functional.max_pool2d(1 - valid, 3, 1, 1)
    across = (picture[..., :, 1:] - picture[..., :, :-1]).abs() * region[..., :, 1:] * region[..., :, :-1]
    down = (picture[..., 1:, :] - picture[..., :-1, :]).abs() * region[..., 1:, :] * region[..., :-1, :]
    return (across.sum() + down.sum()) / picture.numel()


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
