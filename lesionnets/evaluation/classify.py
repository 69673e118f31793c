"""How well the classifier tells diagnoses apart, and whether its probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.errors import UsageError
from lesionnets.data.sources import ham10000
from lesionnets.data.sources.isic import DIAGNOSES, Image, Sample, read_fitting_mask
from lesionnets.evaluation import segment
from lesionnets.evaluation.figures import intervals
from lesionnets.evaluation.figures.calibration import confidence_error, error_by_chance
from lesionnets.evaluation.figures.intervals import Figure, Weights
from lesionnets.evaluation.figures.overlap import Mask
from lesionnets.evaluation.figures.ranking import areas, curves
from lesionnets.evaluation.figures.strata import Row, Strata, grouped
from lesionnets.evaluation.models.predictors import LoadedModel

SENSITIVITIES = (0.82, 0.89, 0.95)
"""Sensitivities at which specificity is measured, as in the ISIC challenges; dermatologists reach 82 and 89 %."""


TOLD = ("image_id", "diagnosis", "contrast")
"""Columns of an image's row, besides the classes."""


def evaluate(
    model: LoadedModel,
    samples: Sequence[Sample],
    segmenter: LoadedModel | None,
    *,
    classes: Sequence[str] = (),
    native: bool = False,
    rounds: int = 1000,
    watched: segment.Watched = iter,
    long_side: int | None = None,
    table: segment.Rows | None = None,
) -> dict[str, Figure]:
    """The figures of :func:`bootstrap` for a model's probabilities.

    Args:
        model: A model of the classify stage.
        samples: Images with diagnoses.
        segmenter: A model of the segment stage that makes the lesion masks of samples without an expert's mask, as
            in service. Without it these have empty masks.
        classes: Names in the order of the model's probabilities; by default its own labels.
        native: Send all pixels instead of as many as a worker sends.
        rounds: Number of bootstrap resamplings.
        watched: Iterates over the samples, and may show progress.
        long_side: Pixels to which pictures are reduced before all else, as if another camera had taken them.
        table: If given, a row of probabilities is added to it for each image.

    Raises:
        UsageError: If a sample has no diagnosis or one that the model does not know, there is only one diagnosis,
            or a file cannot be read.
    """
    rows: list[npt.NDArray[np.float32]] = []
    # A label that the model does not know is told before the first image.
    names: Sequence[str] = known_classes(model, len(model.labels), classes, samples) if model.labels else ()
    for sample in watched(samples):
        image = segment.reduced(segment.read_picture(sample), long_side)
        lesion = lesion_of(sample, image, segmenter, native=native)
        rows.append(probabilities(model, image, lesion, native=native))
        if len(rows) == 1:
            names = known_classes(model, len(rows[0]), classes, samples)
        if table is not None:
            told = zip(names, map(float, rows[-1]), strict=True)
            table.append(
                {
                    "image_id": sample.image_id,
                    "diagnosis": sample.diagnosis,
                    "contrast": segment.contrast(image, lesion > 0),
                    **dict(told),
                }
            )
    labels = np.array([names.index(str(sample.diagnosis)) for sample in samples])
    return bootstrap(np.stack(rows), labels, classes=names, rounds=rounds)


def probabilities(model: LoadedModel, image: Image, lesion: Image, *, native: bool) -> npt.NDArray[np.float32]:
    """A classifier's probabilities [C] for an image [H, W, 3] and a lesion mask [H, W]."""
    answer = model(IMAGE=model.fitted(image, native=native), LESION=model.fitted(lesion, native=native))
    return np.asarray(answer["PROBABILITIES"], np.float32)


def known_classes(
    model: LoadedModel, count: int, asked: Sequence[str], samples: Sequence[Sample]
) -> Sequence[str]:
    """The names of a model's classes, in order: those asked for, its own, or the data set's with as many.

    Raises:
        UsageError: If there are no names, their number differs from that of the probabilities, or a diagnosis is
            not among them.
    """
    by_count = {len(known): known for known in (DIAGNOSES, ham10000.DIAGNOSES)}
    names = asked or (model.labels if len(model.labels) == count else by_count.get(count, model.labels))
    if len(names) != count:
        told = f"{len(names)} classes are named" if names else "its classes are not named"
        raise UsageError(
            f"{model.name} gives {count} probabilities, but {told}: name them in order with --classes"
        )
    refuse_unknown(model.name, names, samples)
    return names


def refuse_unknown(model: str, names: Sequence[str], samples: Sequence[Sample]) -> None:
    """Refuse labels by which a model with these classes cannot be measured.

    Args:
        model: The model's name as the user gave it.
        names: Names of its classes.
        samples: The images.

    Raises:
        UsageError: If an image has no diagnosis or one that is not a class, or all images have the same.
    """
    missing = [sample.image for sample in samples if sample.diagnosis is None]
    if missing:
        raise UsageError(f"{missing[0]} has no diagnosis; add one, or leave the image out")
    found = {str(sample.diagnosis) for sample in samples}
    if unknown := sorted(found - set(names)):
        raise UsageError(
            f"the labels contain diagnoses that are not classes of {model}: {', '.join(unknown)} (it knows "
            f"{', '.join(names)})"
        )
    if len(found) == 1:
        raise UsageError(f"all images are labelled {found.pop()}: at least two diagnoses are needed")


def lesion_of(sample: Sample, image: Image, segmenter: LoadedModel | None, *, native: bool) -> Image:
    """The lesion mask that a classifier gets for an image [H, W, 3]: uint8 [H, W], 255 in the lesion."""
    height, width = image.shape[:2]
    if sample.mask is not None:
        mask = read_fitting_mask(sample.mask, height, width)
        mask = np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        return np.asarray(mask, np.uint8)
    if segmenter is None:
        return np.zeros((height, width), np.uint8)
    found = segment.lesion_probability(segmenter, image, native=native)
    return as_bytes(segment.worker_mask(segmenter, found, (height, width)))


def embedding_of(model: LoadedModel, image: Image, lesion: Image) -> npt.NDArray[np.float64]:
    """A classifier's embedding of a picture: float64 [F], of length 1.

    Args:
        model: The classifier.
        image: Uint8 [H, W, 3], of the size at which it goes to the model.
        lesion: Its mask, uint8 [H, W], 255 where lesion.
    """
    vector = np.asarray(model(IMAGE=image, LESION=lesion)["EMBEDDING"], np.float64)
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9), np.float64)


def as_bytes(mask: Mask) -> Image:
    """A mask as classifiers take it: 255 in the lesion."""
    return np.where(mask, np.uint8(255), np.uint8(0))


def bootstrap(
    scores: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    *,
    classes: Sequence[str] = DIAGNOSES,
    rounds: int = 1000,
    seed: int = 0,
) -> dict[str, Figure]:
    """All figures of a classifier, with 95 % intervals over images drawn within each class.

    Args:
        scores: [N, C] probabilities.
        labels: [N] indices of classes.
        classes: Names, C.
        rounds: Number of bootstrap resamplings.
        seed: Seed of the resamplings.

    Returns:
        ``mean_auc`` and ``auc_<class>``; ``accuracy``; ``balanced_accuracy``, the mean of the classes' shares of
        right answers; ``expected_calibration_error``, and ``calibration_error_by_chance`` that a calibrated model
        of these confidences would show; ``nll`` (negative log-likelihood) and ``brier`` (the squared
        error summed over classes, 0 to 2); for every class ``sensitivity_<class>`` and ``specificity_<class>``
        where a probability of one half calls it, and ``specificity_at_82_<class>`` (89, 95) at that sensitivity.
        Classes that no image has are left out.
    """
    found = curves(scores, labels, classes)
    likeliest, confidence = scores.argmax(axis=1), scores.max(axis=1)
    is_right = likeliest == labels
    truth = np.eye(scores.shape[1])[labels]
    # What float32 can tell from 0, as scikit-learn's log_loss has it.
    entropy = -np.log(np.clip(scores[np.arange(len(labels)), labels], np.finfo(np.float32).eps, 1))
    squares = ((scores - truth) ** 2).sum(axis=1)
    called = {name: scores[:, index] >= 0.5 for index, name in enumerate(classes) if name in found}
    member = {name: labels == index for index, name in enumerate(classes) if name in found}

    def figures(weights: Weights) -> Mapping[str, float]:
        rates = {}
        for name, curve in found.items():
            rates[f"sensitivity_{name}"] = _mean(called[name], weights * member[name])
            rates[f"specificity_{name}"] = _mean(~called[name], weights * ~member[name])
            for least in SENSITIVITIES:
                rates[f"specificity_at_{100 * least:.0f}_{name}"] = curve.specificity_at(least, weights)
        right_by_class = np.bincount(labels, weights * is_right) / np.maximum(np.bincount(labels, weights), 1e-12)
        return {
            **areas(found, weights),
            "accuracy": _mean(is_right, weights),
            "balanced_accuracy": float(right_by_class[np.unique(labels)].mean()),
            "expected_calibration_error": confidence_error(confidence, is_right, weights),
            "nll": _mean(entropy, weights),
            "brier": _mean(squares, weights),
            **rates,
        }

    drawn = intervals.bootstrap(figures, len(labels), strata=labels, rounds=rounds, seed=seed)
    return drawn | {"calibration_error_by_chance": error_by_chance(confidence, seed=seed)}


def of_groups(rows: Sequence[Row], by: Sequence[Strata], classes: Sequence[str]) -> dict[str, Figure]:
    """``auc_CLASS_STRATUM`` with 95 % intervals, for groups that have the class and others.

    Args:
        rows: The images, with ``diagnosis`` and a probability for each class.
        by: How they are grouped.
        classes: Their names.
    """
    found: dict[str, Figure] = {}
    for end, group in grouped(rows, by).items():
        labels = np.array([classes.index(str(row["diagnosis"])) for row in group])
        scores = np.array([[float(str(row[name])) for name in classes] for row in group], np.float32)
        figures = bootstrap(scores, labels, classes=classes)
        found |= {f"{name}_{end}": figure for name, figure in figures.items() if name.startswith("auc_")}
    return found


def _mean(values: npt.NDArray[Any], weights: Weights) -> float:
    return float((values * weights).sum() / weights.sum())
