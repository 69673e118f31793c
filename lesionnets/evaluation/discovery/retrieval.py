"""Whether pictures that look alike have the same diagnosis: the share of these among the nearest.

Each query picture is compared with all others, never with itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lesionnets.data.sources.isic import Sample
from lesionnets.evaluation.classify import embedding_of, lesion_of
from lesionnets.evaluation.discovery.described import Described, Floats
from lesionnets.evaluation.models.predictors import LoadedModel
from lesionnets.evaluation.segment import Watched, read_picture

Shares = npt.NDArray[np.float64]

NEAREST = 5

_TEMPERATURE = 0.1
"""Difference of cosines at which a match falls to 1 / e."""


def embeddings(
    model: LoadedModel, samples: Sequence[Sample], segmenter: LoadedModel | None, *, watched: Watched = iter
) -> Floats:
    """Embeddings float32 [N, F] of pictures, of length 1, as a served classifier returns them.

    Args:
        model: The classifier.
        samples: Pictures.
        segmenter: Finds the lesions of those without an expert's mask.
        watched: Iterates over the samples, and may show progress.

    Raises:
        UsageError: If a file cannot be read.
    """
    rows = []
    for sample in watched(samples):
        image = read_picture(sample)
        lesion = lesion_of(sample, image, segmenter, native=False)
        rows.append(embedding_of(model, model.fitted(image, native=False), model.fitted(lesion, native=False)))
    return np.stack(rows).astype(np.float32)


def by_whole(asked: Floats, held: Floats) -> Floats:
    """Cosines float32 [A, H] of embeddings [A, F] and [H, F] of length 1."""
    return np.asarray(asked @ held.T, np.float32)


def by_patterns(asked: Described, held: Described) -> Floats:
    """How similar the places are, float32 [A, H], 0 to 1; each place has the weight that it has in the outcome.

    A place's match is the most similar place of the other picture's lesion (US 2018/0130203 A1, [0062] and [0063]:
    by local patterns, and by how these contributed), and counts exp((cosine - 1) / 0.1).
    """
    found = np.zeros((len(asked.places), len(held.places)), np.float32)
    others = [places[inside].T for places, inside in zip(held.places, held.inside, strict=True)]
    for row, (places, inside) in enumerate(zip(asked.places, asked.inside, strict=True)):
        mine = places[inside]
        weights = asked.weights[row][inside]
        weights = weights / max(float(weights.sum()), 1e-9)
        best = np.stack([(mine @ other).max(axis=1) for other in others], axis=1)
        found[row] = weights @ np.exp((best - 1) / _TEMPERATURE)
    return found


def right(near: Floats, asked: Sequence[str | None], held: Sequence[str | None], *, same: bool) -> Shares:
    """For each query picture, the share of its nearest pictures with its diagnosis: float64 [A].

    Args:
        near: Float32 [A, H]: how near they are.
        asked: Diagnoses, A.
        held: Diagnoses, H.
        same: Whether the query pictures are the held ones, in the same order.
    """
    near = near - 9 * np.eye(len(near), dtype=np.float32) if same else near
    top = np.argsort(-near, axis=1, kind="stable")[:, :NEAREST]
    return np.asarray((np.array(held)[top] == np.array(asked)[:, None]).mean(axis=1), np.float64)
