"""Losses of SRGAN (Ledig et al., CVPR 2017; SkinSegmentSRGAN, section 3.3.2): content and adversarial.

Discriminators return logits. The papers' sigmoid is applied here, where its logarithm cannot overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Features = Callable[[Tensor], Sequence[Tensor]]
"""As ``inpainting.Features``."""

ADVERSARIAL_WEIGHT = 1e-3


def content_loss(enhanced: Tensor, original: Tensor, features: Features) -> Tensor:
    """Mean squared difference of the deepest features.

    The paper compares block3_conv3 of VGG19; we use ``perceptual.PerceptualFeatures`` with ``CONTENT_TAPS``
    instead.

    Args:
        enhanced: The generator's pictures, float [N, 3, H, W].
        original: The originals, float [N, 3, H, W], 0 to 1.
        features: See :data:`Features`.

    Returns:
        Scalar >= 0.
    """
    return functional.mse_loss(features(enhanced)[-1], features(original)[-1])


def adversarial_loss(judged: Tensor) -> Tensor:
    """-log D(G(x)): large if the discriminator recognises the generator's pictures (Ledig et al., eq. 6).

    Args:
        judged: Logits of the generator's pictures, of any shape.

    Returns:
        Scalar >= 0, float32; log 2 where the discriminator cannot tell.
    """
    return functional.softplus(-judged.float()).mean()


def generator_loss(enhanced: Tensor, original: Tensor, judged: Tensor, features: Features) -> Tensor:
    """Content loss plus a thousandth of the adversarial loss (eq. 3); arguments as theirs."""
    return torch.add(
        content_loss(enhanced, original, features), adversarial_loss(judged), alpha=ADVERSARIAL_WEIGHT
    )


def discriminator_loss(originals: Tensor, generated: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))).

    Args:
        originals: Logits of originals, of any shape.
        generated: Logits of the generator's pictures.

    Returns:
        Scalar >= 0, float32; 2 log 2 where it cannot tell.
    """
    return functional.softplus(-originals.float()).mean() + functional.softplus(generated.float()).mean()
