"""The stages one after another as a worker runs them (purify, segment, classify), measured by their results.

Each stage gets the result of the one before it: masks are found in purified pictures, and diagnoses are made with
the masks that were found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dermbatch.errors import UsageError
from dermbatch.images.fitting import COVERED, brought_back
from lesionnets.data.sources.isic import Image, Sample
from lesionnets.evaluation import classify, segment
from lesionnets.evaluation.figures.boundary import boundary
from lesionnets.evaluation.figures.intervals import Figure, bootstrap_mean
from lesionnets.evaluation.figures.overlap import agreement
from lesionnets.evaluation.models.predictors import LoadedModel

LIMIT = 1.0
"""Distance above which a worker makes no diagnosis, because the picture is not a dermoscopic image."""


@dataclass(frozen=True)
class Chain:
    """The stages' models; without a purifier, masks and diagnoses are those of the unpurified pictures."""

    purifier: LoadedModel | None
    segmenter: LoadedModel
    classifier: LoadedModel | None


def evaluate(
    chain: Chain,
    samples: Sequence[Sample],
    *,
    classes: Sequence[str] = (),
    rounds: int = 1000,
    watched: segment.Watched = iter,
    long_side: int | None = None,
    table: segment.Rows,
) -> dict[str, Figure]:
    """Figures of masks, for images with an expert's mask, and of diagnoses, for labelled images.

    Args:
        chain: The models.
        samples: Images with a mask, a diagnosis or both.
        classes: Names in the order of the classifier's probabilities; by default its own labels.
        rounds: Number of bootstrap resamplings of figures that are not means over images.
        watched: Iterates over the samples, and may show progress.
        long_side: Pixels to which pictures are reduced before all else, as if another camera had taken them.
        table: A row is added for each image.

    Returns:
        ``purify_replaced``, the share of the pixels that purification replaced; ``segment_`` and the names of
        :func:`lesionnets.evaluation.segment.evaluate`, without the calibration error; ``classify_`` and the names
        of :func:`lesionnets.evaluation.classify.bootstrap`; ``not_dermoscopic``, the share of pictures that would
        get no diagnosis. Those count among the diagnoses with the probabilities that they would have had.

    Raises:
        UsageError: If a file cannot be read, or a diagnosis is no class of the classifier.
    """
    labelled = [sample for sample in samples if sample.diagnosis is not None]
    names = _classes(chain.classifier, classes, labelled)
    rows = [_row(chain, sample, names, long_side) for sample in watched(samples)]
    table += rows
    figures = {}
    for name in ("purify_replaced", "not_dermoscopic", *_measured(rows)):
        values = [float(str(row[name])) for row in rows if row.get(name) is not None]
        if values:
            figures[name] = bootstrap_mean(values)
    told = [row for row in rows if names and row["diagnosis"] is not None]
    if not told:
        return figures
    labels = np.array([names.index(str(row["diagnosis"])) for row in told])
    scores = np.array([[row[name] for name in names] for row in told], np.float32)
    ranked = classify.bootstrap(scores, labels, classes=names, rounds=rounds)
    return figures | {f"classify_{name}": figure for name, figure in ranked.items()}


def _classes(classifier: LoadedModel | None, asked: Sequence[str], labelled: Sequence[Sample]) -> Sequence[str]:
    """The classifier's classes, if there is one and it is measured."""
    if classifier is None or not labelled:
        return ()
    if not (names := asked or classifier.labels):
        raise UsageError(f"the classes of {classifier.name} are not named: name them in order with --classes")
    return classify.known_classes(classifier, len(names), names, labelled)


def _measured(rows: Sequence[dict[str, object]]) -> list[str]:
    """Names of what is measured of masks."""
    return list(dict.fromkeys(name for row in rows for name in row if name.startswith("segment_")))


def _row(chain: Chain, sample: Sample, names: Sequence[str], long_side: int | None) -> dict[str, object]:
    """The chain's results for an image, and how they compare with the truth."""
    image, truth = (segment.read_picture(sample), None) if sample.mask is None else segment.read_pair(sample)
    image = segment.reduced(image, long_side)
    clean, replaced = (image, None) if chain.purifier is None else purified(chain.purifier, image)
    probability = segment.lesion_probability(chain.segmenter, clean, native=False)
    mask = segment.worker_mask(chain.segmenter, probability, clean.shape)
    row: dict[str, object] = {"image_id": sample.image_id, "diagnosis": sample.diagnosis}
    row |= {"contrast": segment.contrast(image, mask if truth is None else truth), "purify_replaced": replaced}
    if truth is not None:
        found = segment.worker_mask(chain.segmenter, probability, truth.shape)
        row |= {
            f"segment_{name}": value for name, value in (agreement(found, truth) | boundary(found, truth)).items()
        }
    if chain.classifier is not None and names:
        row |= _diagnosis(chain.classifier, clean, classify.as_bytes(mask), names)
    return row


def _diagnosis(model: LoadedModel, image: Image, lesion: Image, names: Sequence[str]) -> dict[str, object]:
    answer = model(IMAGE=model.fitted(image, native=False), LESION=model.fitted(lesion, native=False))
    given = np.asarray(answer["PROBABILITIES"], np.float32)
    if len(given) != len(names):
        raise UsageError(f"{model.name} gives {len(given)} probabilities, but {len(names)} classes are named")
    distance = float(np.ravel(answer["DISTANCE"])[0]) if "DISTANCE" in answer else None
    flagged = None if distance is None else float(distance > LIMIT)
    return {
        **dict(zip(names, map(float, given), strict=True)),
        "distance": distance,
        "not_dermoscopic": flagged,
    }


def purified(model: LoadedModel, image: Image) -> tuple[Image, float]:
    """The picture that purification hands on in service, and the share of the pixels that it replaced.

    Args:
        model: A model of the purify stage.
        image: [H, W, 3].
    """
    sent = model.fitted(image, native=False)
    answer = model(IMAGE=sent)
    clean, occlusion = (np.asarray(answer[name], np.uint8) for name in ("PURIFIED", "OCCLUSION"))
    level = max(1, math.ceil(model.number("threshold", COVERED) * 255))
    found = occlusion >= level
    if not found.any():
        return image, 0.0
    if sent.shape == image.shape:
        return clean, float(found.mean())
    picture, pixels = brought_back(image, clean, occlusion, level=level)
    return picture, pixels / (image.shape[0] * image.shape[1])
