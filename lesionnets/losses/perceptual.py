"""Features by which pictures are compared: those of MobileNetV2, trained on ImageNet.

SRGAN and the loss of partial convolutions compare pictures by features of VGG, trained on ImageNet. There are no
such weights under a licence and from a source that this project could use, so MobileNetV2's (Apache-2.0) take
their place. Feature losses work with many networks trained on ImageNet (Zhang et al., CVPR 2018, section 4). That
this distance orders distortions as eyes do, where pixels do not, is tested in ``tests/nets/test_perceptual.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from lesionnets.nets.classify.mobilenet import MobileNetV2
from lesionnets.nets.tflite import load_mobilenet

TAPS = (1, 3, 6)
"""Layers of the backbone that end a resolution: a half, a quarter and an eighth, as VGG-16's pool1 to pool3."""

CONTENT_TAPS = (6,)
"""As deep as SRGAN's block3_conv3 of VGG19; unlike finer features, they hardly change with a shift by a pixel."""


class PerceptualFeatures(nn.Module):
    """Frozen features at several depths of a network.

    Args:
        backbone: A backbone with weights; it is frozen.
        taps: Numbers of its layers to read, in rising order.

    Shape:
        picture float [N, 3, H, W], 0 to 1 -> for each tap a float [N, c, ceil(H / s), ceil(W / s)], where by
        default s is 2, 4 and 8, and c is 16, 24 and 32.
    """

    def __init__(self, backbone: MobileNetV2, taps: Sequence[int] = TAPS) -> None:
        super().__init__()
        self.taps = tuple(taps)
        self.layers = nn.Sequential(*list(backbone.layers)[: self.taps[-1] + 1]).eval()
        self.requires_grad_(requires_grad=False)

    def forward(self, picture: Tensor) -> list[Tensor]:
        """See the class."""
        values, found = 2 * picture - 1, []
        for number, layer in enumerate(self.layers):
            values = layer(values)
            if number in self.taps:
                found.append(values)
        return found


def imagenet_features(path: Path, taps: Sequence[int] = TAPS) -> PerceptualFeatures:
    """Features with the weights of a .tflite file of MobileNetV2.

    Raises:
        UsageError: If the file is missing or belongs to another network.
    """
    backbone = MobileNetV2()
    load_mobilenet(backbone, path)
    return PerceptualFeatures(backbone, taps)


def perceptual_distance(features: nn.Module, picture: Tensor, other: Tensor) -> Tensor:
    """How different two pictures look: LPIPS without learned weights (Zhang et al., CVPR 2018, eq. 1).

    The features at each place are scaled to length 1 over the channels. Squared differences are summed over
    channels, averaged over places and summed over depths.

    Args:
        features: A network that returns features, such as :class:`PerceptualFeatures`.
        picture: Float [N, 3, H, W], 0 to 1.
        other: A picture of the same shape.

    Returns:
        Float [N], >= 0.
    """
    pairs = zip(features(picture), features(other), strict=True)
    return sum(  # type: ignore[return-value]
        (nn.functional.normalize(a, dim=1) - nn.functional.normalize(b, dim=1))
        .square()
        .sum(dim=1)
        .mean(dim=(1, 2))
        for a, b in pairs
    )
