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
    """A part of the picture that a network is shown, around the lesion.

    Attributes:
        margin: Its side over the lesion's longer side.
        least: Its side over the picture's shorter side, at least.
        inside: Moved into the picture where it would leave it.
        share: Side in pixels at which the network sees it, over the network's size.
    """

    margin: float = 1.4
    least: float = 0.3
    inside: bool = False
    share: float = 1.0

    def pixels(self, size: int) -> int:
        """Side at which a network of a size sees it: a multiple of 32, as maps of features halve five times."""
        return max(round(self.share * size / 32), 1) * 32 if self.share != 1 else size


class Places(NamedTuple):
    """What a picture's places look like, and what each counts.

    Attributes:
        described: Float [N, K, h, w], each place of length 1.
        weights: Float [N, 1, h, w], sum 1.
    """

    described: Tensor
    weights: Tensor


class Classifier(nn.Module):
    """A network from a picture and the lesion in it to a diagnosis.

    Args:
        size: Side of the square pictures that it is trained on and served with, pixels.
        diagnoses: Names of its classes, in order.
        features: Length of its embedding.

    Attributes:
        guided: Whether it is shown the square around the lesion, and the lesion's mask; else it is shown the whole
            picture, and an empty mask.
        squares: What it is shown; probabilities are the mean over them, the rest is that of the first.
        plane: Side that pictures are squashed to before squares are cut out, pixels.
        long_side: Pixels to which a worker reduces pictures that it sends; its own default where none is given.
        temperature: Float scalar, fitted after training (Guo et al., ICML 2017): logits over it are calibrated.
        patterns: Length of what describes a place (:meth:`places`); 0 of networks that describe none.
        usual: Tells pictures that are unlike those of skin by what :meth:`look` gives; fitted after training
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
        """As ``forward``, and what ``usual`` takes, float [N, F]; of networks that have one."""
        raise NotImplementedError

    def places(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Places]:
        """As ``forward``, and what its places look like; of networks that describe them."""
        raise NotImplementedError
