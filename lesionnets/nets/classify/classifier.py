"""What all networks from an image to its diagnosis share, so that one graph serves them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lesionnets.nets.classify.usual import Usual


@dataclass(frozen=True)
class Square:
    """A square part of the picture around the lesion, which a network is shown.

    Attributes:
        margin: Its side as a multiple of the lesion's longer side.
        least: Its least side as a multiple of the picture's shorter side.
        inside: Whether it is moved into the picture if it would extend beyond it.
        share: Side in pixels at which the network sees it, as a multiple of the network's size.
    """

    margin: float = 1.4
    least: float = 0.3
    inside: bool = False
    share: float = 1.0

    def pixels(self, size: int) -> int:
        """Side at which a network of a size sees it: a multiple of 32, as maps of features halve five times."""
        return max(round(self.share * size / 32), 1) * 32 if self.share != 1 else size


class Places(NamedTuple):
    """Descriptors of the places of a picture, and how much each place counts.

    Attributes:
        described: Float [N, K, h, w]: descriptors, each of length 1.
        weights: Float [N, 1, h, w], >= 0, with the sum 1.
    """

    described: Tensor
    weights: Tensor


class Classifier(nn.Module):
    """A network from a picture and the lesion in it to a diagnosis.

    Args:
        size: Side in pixels of the square pictures that it is trained on and served with.
        diagnoses: Names of the classes, in the order of the logits.
        features: Length of its embedding.

    Attributes:
        guided: Whether it is shown the square around the lesion and the lesion's mask. If not, it is shown the
            whole picture and an empty mask.
        squares: The squares that it is shown. Probabilities are the mean over them; all else is that of the first.
        plane: Side in pixels to which pictures are squashed before squares are cut out.
        long_side: Pixels on the long side to which a worker reduces the pictures that it sends; None: the worker's
            default.
        temperature: Float scalar, fitted after training (Guo et al., ICML 2017, section 4.2,
            https://arxiv.org/abs/1706.04599): logits divided by it are calibrated.
        patterns: Length of a place's descriptor (:meth:`places`); 0 if the network does not describe places.
        usual: Tells pictures that are unlike those of skin, from what :meth:`look` returns; fitted after training
            (:mod:`lesionnets.evaluation.choosing.usual`), and missing until then.

    Shape:
        image float [N, 3, size, size], 0 to 1; mask float [N, 1, size, size], 0 to 1
        -> logits [N, classes]; embedding [N, features], of length 1; class activation maps [N, classes, h, w].
        Where a square has a share of its own, it is that much smaller.
    """

    guided = True
    squares: tuple[Square, ...] = (Square(),)
    plane = 512
    long_side: int | None = None
    patterns = 0
    temperature: Tensor

    def __init__(self, size: int, diagnoses: Sequence[str], features: int) -> None:
        super().__init__()
        self.size = size
        self.diagnoses = tuple(diagnoses)
        self.features = features
        self.register_buffer("temperature", torch.ones(()))
        self.usual: Usual | None = None

    @property
    def stages(self) -> Sequence[nn.Module]:
        """What VisualBackProp reads: layers that end in a ReLU, shallow first."""
        raise NotImplementedError

    def look(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As ``forward``, and the traits float [N, F] that ``usual`` takes; only of networks that have it."""
        raise NotImplementedError

    def places(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Places]:
        """As ``forward``, and the descriptors of its places; only of networks that describe places."""
        raise NotImplementedError
