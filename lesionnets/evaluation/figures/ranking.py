"""How well scores rank the images of one class above all others: ROC curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lesionnets.data.sources.isic import DIAGNOSES
from lesionnets.evaluation.figures.intervals import Weights

CHALLENGE = ("melanoma", "seborrheic_keratosis")
"""The two classes by whose mean AUC ISIC 2017 ranked classifiers."""


class Curve:
    """The ROC curve of one class against the rest.

    Scores are sorted once and images are weighted afterwards, which makes a bootstrap of a thousand rounds as
    cheap as ten calls of scikit-learn.

    Args:
        scores: [N], higher if the class is likelier; none may be NaN.
        is_class: [N] bool; both values must occur.
    """

    def __init__(self, scores: npt.NDArray[np.floating[Any]], is_class: npt.NDArray[np.bool_]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._is_class = is_class[self._order]
        falling = scores[self._order]
        # Images of one score can only be told apart from the others together.
        self._ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))

    def points(self, weights: Weights) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Sensitivity and false-positive rate at every threshold, from 0, 0 to 1, 1."""
        drawn = weights[self._order]
        found = np.cumsum(drawn * self._is_class)[self._ends]
        alarms = np.cumsum(drawn * ~self._is_class)[self._ends]
        return np.append(0.0, found / found[-1]), np.append(0.0, alarms / alarms[-1])

    def area(self, weights: Weights) -> float:
        """Area under the curve: how often an image of the class ranks above another one; ties count one half."""
        sensitivity, alarms = self.points(weights)
        return float(np.sum(np.diff(alarms) * (sensitivity[1:] + sensitivity[:-1])) / 2)

    def specificity_at(self, least: float, weights: Weights) -> float:
        """The best specificity of all thresholds with at least this sensitivity."""
        sensitivity, alarms = self.points(weights)
        # Sums of shares fall short of round numbers by rounding.
        return 1 - float(alarms[np.argmax(sensitivity >= least - 1e-9)])


def curves(
    probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64], classes: Sequence[str]
) -> dict[str, Curve]:
    """The curve of each class, except classes that no image or every image has.

    Args:
        probabilities: [N, C].
        labels: [N] indices of classes.
        classes: Names, C.
    """
    return {
        name: Curve(probabilities[:, index], labels == index)
        for index, name in enumerate(classes)
        if 0 < np.count_nonzero(labels == index) < len(labels)
    }


def areas(found: dict[str, Curve], weights: Weights) -> dict[str, float]:
    """``auc_<class>`` of each curve, and ``mean_auc``.

    The mean is over those of the challenge's two classes that occur. If neither does (labels other than ISIC
    2017's), it is over all curves; without any curve it is one half.
    """
    by_class = {name: curve.area(weights) for name, curve in found.items()}
    ranked = [by_class[name] for name in CHALLENGE if name in by_class] or list(by_class.values())
    return {f"auc_{name}": value for name, value in by_class.items()} | {
        "mean_auc": float(np.mean(ranked)) if ranked else 0.5
    }


def auc_by_class(
    probabilities: npt.NDArray[np.float32],
    labels: Sequence[int] | npt.NDArray[np.int64],
    classes: Sequence[str] = DIAGNOSES,
) -> dict[str, float]:
    """Area under the ROC curve of each class against the rest, and ``mean_auc``; see :func:`areas`.

    Args:
        probabilities: [N, C], in the order of ``classes``.
        labels: [N] indices.
        classes: Names.
    """
    return areas(curves(probabilities, np.asarray(labels), classes), np.ones(len(labels)))
