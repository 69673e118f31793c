"""Areas under the ROC curve of a classifier, one class against the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from lesionnets.data.isic import DIAGNOSES

CHALLENGE = ("melanoma", "seborrheic_keratosis")
"""The two classes whose mean AUC ranked ISIC 2017's classifiers."""


def auc_by_class(
    probabilities: npt.NDArray[np.float32], labels: Sequence[int] | npt.NDArray[np.int64]
) -> dict[str, float]:
    """Area under the ROC curve of every class against the rest, and ``mean_auc`` over the challenge's two.

    A class that no image or every image has is left out; the mean is over those that are left.

    Args:
        probabilities: [N, 3], in the order of ``DIAGNOSES``.
        labels: [N] indices.
    """
    truth = np.asarray(labels)
    found = {}
    for index, name in enumerate(DIAGNOSES):
        is_class = truth == index
        if 0 < np.count_nonzero(is_class) < len(truth):
            found[name] = float(roc_auc_score(is_class, probabilities[:, index]))
    ranked = [found[name] for name in CHALLENGE if name in found]
    return {f"auc_{name}": value for name, value in found.items()} | {
        "mean_auc": float(np.mean(ranked)) if ranked else 0.5
    }
