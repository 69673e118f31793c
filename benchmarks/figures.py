"""What benchmarks that leave out sources share: means over folds, drawn pictures, figures printed and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.phantoms.phantom import phantom
from lesionnets.data.sources.isic import DIAGNOSES, Sample
from lesionnets.evaluation.figures.intervals import Figure, Weights, bootstrap
from lesionnets.evaluation.figures.ranking import CHALLENGE, areas, curves

Judge = Callable[[Weights], Mapping[str, float]]
"""The figures of an arm on the pictures of a fold, from how often each of them counts."""


def ranked(probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64]) -> Judge:
    """AUCs of an arm that diagnoses: probabilities [N, 3] of pictures with labels [N]."""
    found = curves(probabilities, labels, DIAGNOSES)
    return lambda weights: areas(found, weights)


def over_folds(
    folds: Sequence[tuple[npt.NDArray[np.int64], Mapping[str, Judge]]], pairs: Iterable[tuple[str, str]]
) -> dict[str, Figure]:
    """Means over folds of the figures of each arm, and of some arms less others, image by image.

    A diagnosis that some fold lacks has no mean over folds: its AUC is left out, and so is the mean AUC where it
    counts in that. What is left out is printed. The AUC of nevi is no figure of ISIC 2017's, and never told.

    Args:
        folds: Of each fold the labels of its pictures, and its arms by their names.
        pairs: Arms, and those that they are compared with.

    Returns:
        ``<arm>:<figure>`` and ``<arm>_less_<other>:<figure>``, with 95 % intervals over pictures, drawn within
        fold and diagnosis.
    """
    pairs = list(pairs)
    labels = np.concatenate([of_fold for of_fold, _ in folds])
    numbers = np.repeat(np.arange(len(folds)), [len(of_fold) for of_fold, _ in folds])
    lacked = {name for of_fold, _ in folds for index, name in enumerate(DIAGNOSES) if not (of_fold == index).any()}
    left_out = {f"auc_{name}" for name in lacked} | ({"mean_auc"} if lacked & {*CHALLENGE} else set())
    if lacked:
        print(f"left out, as a fold lacks {', '.join(sorted(lacked))}: {', '.join(sorted(left_out))}", flush=True)

    def figures(weights: Weights) -> dict[str, float]:
        told = [
            {arm: judge(weights[numbers == number]) for arm, judge in arms.items()}
            for number, (_, arms) in enumerate(folds)
        ]
        means = {
            f"{arm}:{name}": float(np.mean([fold[arm][name] for fold in told]))
            for arm, found in told[0].items()
            for name in found
            if name not in left_out | {"auc_nevus"}
        }
        return means | {
            f"{arm}_less_{other}:{name}": value - means[f"{other}:{name}"]
            for arm, other in pairs
            for (of, _, name), value in ((key.partition(":"), value) for key, value in means.items())
            if of == arm
        }

    return bootstrap(figures, len(labels), strata=numbers * len(DIAGNOSES) + labels)


def tell(figures: Mapping[str, Figure], kept: Path | None = None, *, prefix: str = "") -> None:
    """Print figures, a line each, and keep them as JSON if a file is named."""
    for name, figure in figures.items():
        print(f"{prefix}{name}={str(figure).replace(' ', '')}", flush=True)
    if kept:
        kept.write_text(json.dumps({name: vars(one) for name, one in figures.items()}, indent=2))


def drawn_samples(folder: Path, count: int) -> list[Sample]:
    """Phantoms of 96 x 72 pixels with their masks, diagnoses in turn, written into a folder."""
    samples = []
    for number in range(count):
        drawn, image = phantom(number, height=72, width=96), folder / f"PH_{number}.png"
        cv2.imwrite(str(image), drawn.image[:, :, ::-1])
        cv2.imwrite(str(mask := folder / f"PH_{number}_mask.png"), 255 * drawn.lesion.astype(np.uint8))
        samples.append(Sample(image.stem, image, mask, DIAGNOSES[number % 3]))
    return samples
