"""How well the classifier ranks diagnoses."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.errors import UsageError
from lesionnets.data.isic import DIAGNOSES, Sample, read_image, read_mask
from lesionnets.evaluation.intervals import Figure
from lesionnets.evaluation.predictors import Run
from lesionnets.evaluation.ranking import auc_by_class

Image = npt.NDArray[np.uint8]


def evaluate(run: Run, samples: Sequence[Sample], segment: Run | None, *, rounds: int = 1000) -> dict[str, Figure]:
    """AUC by class, their mean over melanoma and seborrheic keratosis, and accuracy, with 95 % intervals.

    Args:
        run: Model of the classify stage.
        samples: Images with diagnoses.
        segment: Model of the segment stage that makes the lesion masks; without it the experts' are taken where
            there are any, and empty ones elsewhere.
        rounds: Resamplings of the bootstrap.

    Raises:
        UsageError: Where a sample has no diagnosis or a file cannot be read.
    """
    rows, labels = [], []
    for sample in samples:
        if sample.diagnosis is None:
            raise UsageError(f"{sample.image} has no diagnosis")
        image = read_image(sample.image)
        rows.append(run(IMAGE=image, LESION=lesion_of(sample, image, segment))["PROBABILITIES"])
        labels.append(DIAGNOSES.index(sample.diagnosis))
    return bootstrap(np.stack(rows), np.array(labels), rounds=rounds)


def lesion_of(sample: Sample, image: Image, segment: Run | None) -> Image:
    """The lesion mask, uint8 [H, W], that a classifier is given for an image."""
    if segment is not None:
        return np.asarray(segment(IMAGE=image)["LESION"], np.uint8)
    height, width = image.shape[:2]
    if sample.mask is None:
        return np.zeros((height, width), np.uint8)
    return np.asarray(cv2.resize(read_mask(sample.mask), (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def figures_of(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], classes: Sequence[str] = DIAGNOSES
) -> dict[str, float]:
    """AUC by class, ``mean_auc`` and ``accuracy`` of probabilities [N, C] and labels [N]."""
    accuracy = float(np.mean(probabilities.argmax(axis=1) == labels))
    return auc_by_class(probabilities, labels, classes) | {"accuracy": accuracy}


def bootstrap(
    probabilities: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    *,
    classes: Sequence[str] = DIAGNOSES,
    rounds: int = 1000,
    seed: int = 0,
) -> dict[str, Figure]:
    """Figures with 95 % percentile intervals over images drawn with replacement."""
    random = np.random.default_rng(seed)
    whole = figures_of(probabilities, labels, classes)
    drawn: dict[str, list[float]] = {name: [] for name in whole}
    for _ in range(rounds):
        chosen = random.integers(0, len(labels), len(labels))
        for name, value in figures_of(probabilities[chosen], labels[chosen], classes).items():
            drawn[name].append(value)
    return {
        name: Figure(value, *(float(edge) for edge in np.percentile(drawn[name] or [value], [2.5, 97.5])))
        for name, value in whole.items()
    }
