"""The graph of the classify stage: ``IMAGE``, ``LESION`` -> ``PROBABILITIES``, ``EMBEDDING``, ``SALIENCY``.

A network that tells unusual pictures also gives ``DISTANCE``, from its last square: the whole picture, or nearly
so. One that describes places also gives ``PATTERNS``, from its first square.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from dermbatch.models import contracts
from lesionnets.graphs.crop import lesion_square, paste_square, reduce_square
from lesionnets.graphs.sampling import MIRRORS, area_sample, export_graph, to_bytes
from lesionnets.nets.classify.classifier import Classifier, Places, Square
from lesionnets.saliency import visual_backprop

SALIENCY = 64
"""Side of the saliency map, which covers the whole picture."""
PATTERNS = 24
"""Number of rows and columns of the local descriptors, which also cover the whole picture."""


class ClassifyGraph(nn.Module):
    """A classifier with all the processing around it that serving needs.

    For a network that is guided by the lesion, squares around it are cut out; others see the whole picture. With
    several squares, probabilities are the mean over them; all else is that of the first.

    Args:
        net: The network.
        flips: Take the mean of the probabilities over the lesion and its three mirror images: four times the
            network's cost. Embedding and saliency stay those of the lesion itself.

        visual_backprop: Also give VisualBackProp (:func:`lesionnets.saliency.visual_backprop`), for one more pass.

    Shape:
        image uint8 [N, H, W, 3], lesion uint8 [N, H, W] (probability x 255)
        -> probabilities float [N, classes]; embedding float [N, features], of length 1; saliency uint8 [N, 64, 64]
        over the whole picture: what speaks for the most probable class more than for the others, highest 255;
        and where the network judges distance float [N, 1], above 1 of pictures that are no dermoscopic ones; where
        it describes places, descriptors float [N, 24, 24, K] over the whole picture, as long as they count; and
        VisualBackProp uint8 [N, 64, 64], where it is wanted.
    """

    def __init__(self, net: Classifier, *, flips: bool = False, visual_backprop: bool = False) -> None:
        super().__init__()
        self.net = net
        self.visual_backprop = visual_backprop
        self.mirrors = MIRRORS if flips else MIRRORS[:1]

    def forward(self, image: Tensor, lesion: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        height, width = image.shape[1], image.shape[2]
        picture, mask = self._planes(image, lesion)
        squares = [_placed_square(each, mask, height, width) for each in self.net.squares]
        usual = self.net.usual
        run: Callable[..., tuple[Any, ...]] = self.net if usual is None else self.net.look
        run = self.net.places if self.net.patterns else run
        views = [
            run(*(part.flip(axes) for part in parts))
            for parts in (
                self._cut(picture, mask, square, height, width, kind)
                for square, kind in zip(squares, self.net.squares, strict=True)
            )
            for axes in self.mirrors
        ]
        square, (logits, embedding, maps, *more) = squares[0], views[0]
        scaled = torch.stack([view[0].float() / self.net.temperature for view in views])
        top = _top_class(logits.float()).to(maps.dtype)[:, :, None, None]
        evidence = ((maps - maps.mean(dim=1, keepdim=True)) * top).sum(dim=1, keepdim=True).float().clamp(min=0)
        peak = evidence.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
        saliency = to_bytes(paste_square(evidence / peak, square, height, width, SALIENCY))[:, 0]
        distance = () if usual is None else (usual(views[-len(self.mirrors)][-1].float()),)
        placed = (self._placed(more[0], square, height, width),) if self.net.patterns else ()
        seen = (self._seen(picture, mask, height, width),) if self.visual_backprop else ()
        return scaled.softmax(dim=2).mean(dim=0), embedding.float(), saliency, *distance, *placed, *seen

    def shown(self, image: Tensor, lesion: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """What the network is shown first, and where in the picture that is; arguments as in ``forward``.

        Returns:
            Picture float [N, 3, s, s] and mask float [N, 1, s, s], 0 to 1, and the square, as
            :func:`~lesionnets.graphs.crop.lesion_square` gives it.
        """
        height, width = image.shape[1], image.shape[2]
        picture, mask = self._planes(image, lesion)
        first = self.net.squares[0]
        square = _placed_square(first, mask, height, width)
        return self._cut(picture, mask, square, height, width, first), square

    def _planes(self, image: Tensor, lesion: Tensor) -> tuple[Tensor, Tensor]:
        """Picture and mask squashed to squares, float [N, C, S, S]."""
        picture = area_sample(image, self.net.plane, 2)
        mask = area_sample(lesion[..., None], self.net.plane // 2, 2)
        # Without a lesion the square spans the picture.
        return picture, mask if self.net.guided else 0 * mask

    def _placed(self, places: Places, square: Tensor, height: int, width: int) -> Tensor:
        """Descriptors over the whole picture; their lengths also sum to 1."""
        lengths = (places.described * places.weights).float()
        found = paste_square(lengths, square, height, width, PATTERNS).permute(0, 2, 3, 1)
        total = found.square().sum(dim=3).sqrt().sum(dim=(1, 2))
        return found / total.clamp(min=1e-6)[:, None, None, None]

    def _seen(self, picture: Tensor, mask: Tensor, height: int, width: int) -> Tensor:
        """VisualBackProp of the first square, over the whole picture."""
        first = self.net.squares[0]
        square = _placed_square(first, mask, height, width)
        inputs = self._cut(picture, mask, square, height, width, first)
        found = visual_backprop(self.net, inputs, self.net.stages)
        return to_bytes(paste_square(found, square, height, width, SALIENCY))[:, 0]

    def _cut(
        self, picture: Tensor, mask: Tensor, square: Tensor, height: int, width: int, kind: Square
    ) -> tuple[Tensor, Tensor]:
        """A square of the picture and of the mask, as the network takes them."""
        size = kind.pixels(self.net.size)
        return reduce_square(picture, square, height, width, size), reduce_square(
            mask, square, height, width, size
        )


def _placed_square(kind: Square, mask: Tensor, height: int, width: int) -> Tensor:
    """Where a square lies, as :func:`~lesionnets.graphs.crop.lesion_square` has it."""
    return lesion_square(mask, height, width, margin=kind.margin, least=kind.least, inside=kind.inside)


def _top_class(logits: Tensor) -> Tensor:
    """1 at every row's (first) largest logit, else 0: float [N, classes]."""
    best = logits.argmax(dim=1, keepdim=True)
    return (torch.arange(logits.shape[1], device=logits.device)[None] == best).float()


def contract(network: Classifier, *, visual_backprop: bool = False) -> contracts.Contract:
    """Inputs and outputs of the graph."""
    seen = (contracts.Tensor(contracts.VISUALBACKPROP.name, (SALIENCY, SALIENCY)),) if visual_backprop else ()
    judged = () if network.usual is None else (contracts.DISTANCE,)
    grid = (PATTERNS, PATTERNS, network.patterns)
    placed = (contracts.Tensor(contracts.PATTERNS.name, grid, "float32"),) if network.patterns else ()
    return contracts.Contract(
        inputs=(contracts.IMAGE, contracts.LESION),
        outputs=(
            contracts.Tensor("PROBABILITIES", (len(network.diagnoses),), "float32"),
            contracts.Tensor("EMBEDDING", (network.features,), "float32"),
            contracts.Tensor("SALIENCY", (SALIENCY, SALIENCY)),
            *judged,
            *placed,
            *seen,
        ),
        parameters={"labels": ",".join(network.diagnoses)}
        | ({"long_side": str(network.long_side)} if network.long_side else {}),
    )


def build(network: Classifier, *, flips: bool = False, visual_backprop: bool = False) -> onnx.ModelProto:
    """Wrap a classifier so that it keeps the stage's contract; arguments as in :class:`ClassifyGraph`."""
    outputs = [tensor.name for tensor in contract(network, visual_backprop=visual_backprop).outputs]
    graph = ClassifyGraph(network, flips=flips, visual_backprop=visual_backprop)
    return export_graph(graph, {"IMAGE": (3,), "LESION": ()}, outputs)
