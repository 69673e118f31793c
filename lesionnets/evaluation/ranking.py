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
    probabilities: npt.NDArray[np.float32],
    labels: Sequence[int] | npt.NDArray[np.int64],
    classes: Sequence[str] = DIAGNOSES,
) -> dict[str, float]:
    """Area under the ROC curve of every class against the rest, and ``mean_auc``.

    A class that no image or every image has is left out. The mean is over the challenge's two, or that of them
    that is left; where neither is (other classes than ISIC 2017's), over all that are left.

    Args:
        probabilities: [N, C], in the order of ``classes``.
        labels: [N] indices.
        classes: Names.
    """
    truth = np.asarray(labels)
    found = {}
    for index, name in enumerate(classes):
        is_class = truth == index
        if 0 < np.count_nonzero(is_class) < len(truth):
            found[name] = float(roc_auc_score(is_class, probabilities[:, index]))
    ranked = [found[name] for name in CHALLENGE if name in found] or list(found.values())
    return {f"auc_{name}": value for name, value in found.items()} | {
        "mean_auc": float(np.mean(ranked)) if ranked else 0.5
    }
