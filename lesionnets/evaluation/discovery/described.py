"""The local descriptors of pictures, and what each place adds to each diagnosis, as in service."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dermbatch.errors import UsageError
from dermbatch.images.fitting import LONG_SIDE, sent_size
from dermbatch.images.fitting import fit as fit_to
from lesionnets import checkpoint
from lesionnets.data.sources.isic import Image, Sample
from lesionnets.evaluation.classify import lesion_of
from lesionnets.evaluation.models.predictors import LoadedModel
from lesionnets.evaluation.segment import Watched, read_picture
from lesionnets.graphs.classify import ClassifyGraph
from lesionnets.nets.classify.mobilenet import lesion_weight
from lesionnets.nets.classify.pattern_classifier import PatternClassifier

Floats = npt.NDArray[np.float32]

INSIDE = 0.5
"""Share of lesion from which a place counts as lesion."""


@dataclass(frozen=True)
class Described:
    """Pictures as a network describes them, with P places each.

    Attributes:
        places: Float32 [N, P, K]: descriptors, of length 1.
        inside: Bool [N, P]: places of the lesion; at least one in each picture.
        weights: Float32 [N, P]: how much each counts, with the sum 1.
        adds: Float32 [N, P, classes]: what each adds to the logits, minus the mean over the classes, which changes
            no probability. The sum over places is the logits minus the bias, centred in the same way.
        embeddings: Float32 [N, F], of length 1.
        likeliest: Int64 [N]: the most probable class of the square that is described.
        squares: Float32 [N, 3]: centre row and column as shares of the picture, and side in pixels, of the square
            that was described.
    """

    places: Floats
    inside: npt.NDArray[np.bool_]
    weights: Floats
    adds: Floats
    embeddings: Floats
    likeliest: npt.NDArray[np.int64]
    squares: Floats

    @property
    def side(self) -> int:
        """Number of rows of places, and of columns."""
        return math.isqrt(self.places.shape[1])


def load_patterns(path: Path) -> PatternClassifier:
    """Load a network that describes places from a checkpoint.

    Raises:
        UsageError: If there is no checkpoint, or it is of another network.
    """
    trained = checkpoint.load(path)
    network = trained.build()
    if not isinstance(network, PatternClassifier):
        raise UsageError(
            f"{path} holds a {trained.network}, which describes no places; train classify_patterns, for example"
        )
    return network


@torch.inference_mode()
def described(
    networks: Sequence[PatternClassifier],
    samples: Sequence[Sample],
    segmenter: LoadedModel | None,
    *,
    watched: Watched = iter,
) -> list[Described]:
    """Describe pictures by several networks, each in the first square that it is served with.

    Args:
        networks: The networks, in evaluation mode.
        samples: Images.
        segmenter: Finds the lesions of those without an expert's mask.
        watched: Iterates over the samples, and may show progress.

    Raises:
        UsageError: If a file cannot be read.
    """
    found: list[list[tuple[npt.NDArray[np.generic], ...]]] = [[] for _ in networks]
    graphs = [ClassifyGraph(network).eval() for network in networks]
    for sample in watched(samples):
        image = read_picture(sample)
        lesion = lesion_of(sample, image, segmenter, native=False)
        for graph, rows in zip(graphs, found, strict=True):
            rows.append(_one(graph, image, lesion))
    return [Described(*(np.stack(kind) for kind in zip(*rows, strict=True))) for rows in found]


def _one(graph: ClassifyGraph, image: Image, lesion: Image) -> tuple[npt.NDArray[np.generic], ...]:
    """One network's description of one picture, in the order of :class:`Described`."""
    height, width = image.shape[:2]
    size = sent_size((-1, -1), height, width, graph.net.long_side or LONG_SIDE)
    sent = (np.require(fit_to(value, size), requirements=["C", "W"]) for value in (image, lesion))
    picture, mask = (torch.from_numpy(value)[None] for value in sent)
    inputs, square = graph.shown(picture, mask)
    logits, embedding, maps, places = graph.net.places(*inputs)
    share = lesion_weight(inputs[1], places.weights.shape[-2:])[0, 0].flatten()
    # An empty mask has weight everywhere: all of it is the lesion.
    inside = share >= INSIDE * share.max()
    centred = (maps - maps.mean(dim=1, keepdim=True))[0].flatten(1).T
    scaled = square[0] * torch.tensor([1.0, 1.0, max(height, width) / max(size)])
    return (
        places.described[0].flatten(1).T.float().numpy(),
        inside.numpy(),
        places.weights[0, 0].flatten().float().numpy(),
        centred.float().numpy(),
        embedding[0].float().numpy(),
        logits[0].argmax().numpy(),
        scaled.numpy(),
    )
