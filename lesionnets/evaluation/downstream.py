"""What purification is for: whether segmentation and classification get better on images with hair by it.

Hairs are drawn over images, and each image goes through the other stages three times: covered (``off``), covered
and purified (``on``), and as it was before the hairs (``clean``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dermbatch.errors import UsageError
from dermbatch.phantoms import draw_hairs
from lesionnets.data.isic import Image, Sample
from lesionnets.evaluation import classify, segment
from lesionnets.evaluation.intervals import Figure, Weights, bootstrap, bootstrap_mean
from lesionnets.evaluation.overlap import jaccard
from lesionnets.evaluation.predictors import Model
from lesionnets.evaluation.ranking import areas, curves

ARMS = ("off", "on", "clean")
DIFFERENCES = (("on", "off"), ("on", "clean"))

Probabilities = npt.NDArray[np.float32]


def evaluate(
    purifier: Model,
    segmenter: Model,
    classifier: Model | None,
    samples: Sequence[Sample],
    *,
    classes: Sequence[str] = (),
    native: bool = False,
    seed: int = 0,
    rounds: int = 1000,
    watched: segment.Watched = iter,
) -> dict[str, Figure]:
    """Jaccard and AUC in each arm and their paired differences, with 95 % bootstrap intervals.

    Args:
        purifier: Of the purify stage.
        segmenter: Of the segment stage; its mask of an arm is what the classifier is given there.
        classifier: Of the classify stage, where AUC is wanted.
        samples: With diagnoses where there is a classifier. Those without a mask count for AUC only.
        classes: Names in the order of the classifier's probabilities; its own labels where none are given.
        native: Draw on, and send, all pixels, not as many as a worker sends.
        seed: Of the hairs.
        rounds: Resamplings of the bootstrap of AUC.
        watched: Goes through the samples.

    Returns:
        ``jaccard_<arm>``, ``mean_auc_<arm>``, ``auc_<class>_<arm>``, and each with ``_on_minus_off`` and
        ``_on_minus_clean``. An interval of a difference that does not hold 0 says that the arms differ.

    Raises:
        UsageError: As :func:`lesionnets.evaluation.segment.read_pair` and
            :func:`lesionnets.evaluation.classify.known_classes`; where no sample has a mask.
    """
    if not any(sample.mask for sample in samples):
        raise UsageError("no image has a mask to measure segmentation against")
    overlaps: dict[str, list[float]] = {arm: [] for arm in ARMS}
    rows: dict[str, list[Probabilities]] = {arm: [] for arm in ARMS}
    names: Sequence[str] = ()
    for index, sample in enumerate(watched(samples)):
        image, truth = (segment.read_picture(sample), None) if sample.mask is None else segment.read_pair(sample)
        for arm, picture in _arms(purifier, image, np.random.default_rng([seed, index]), native=native).items():
            probability = segment.lesion_probability(segmenter, picture, native=native)
            if truth is not None:
                overlaps[arm].append(jaccard(segment.worker_mask(segmenter, probability, truth.shape), truth))
            if classifier is not None:
                lesion = classify.as_bytes(segment.worker_mask(segmenter, probability, picture.shape))
                rows[arm].append(classify.probabilities(classifier, picture, lesion, native=native))
                names = names or classify.known_classes(classifier, len(rows[arm][0]), classes, samples)
    figures = {f"jaccard_{arm}": bootstrap_mean(values) for arm, values in overlaps.items()}
    for one, other in DIFFERENCES:
        changes = np.subtract(overlaps[one], overlaps[other])
        figures[f"jaccard_{one}_minus_{other}"] = bootstrap_mean(list(changes))
    if classifier is None:
        return figures
    labels = np.array([names.index(str(sample.diagnosis)) for sample in samples])
    ranked = _areas({arm: np.stack(given) for arm, given in rows.items()}, labels, names)
    return figures | bootstrap(ranked, len(labels), strata=labels, rounds=rounds)


def _arms(purifier: Model, image: Image, random: np.random.Generator, *, native: bool) -> dict[str, Image]:
    """One picture an arm, all of the size at which it goes to the purifier."""
    clean = purifier.fitted(image, native=native)
    covered, _ = draw_hairs(clean, random)
    return {"off": covered, "on": np.asarray(purifier(IMAGE=covered)["PURIFIED"], np.uint8), "clean": clean}


def _areas(
    scores: Mapping[str, Probabilities], labels: npt.NDArray[np.int64], classes: Sequence[str]
) -> Callable[[Weights], dict[str, float]]:
    """The function from weights of images to AUC in each arm and the differences."""
    by_arm = {arm: curves(given, labels, classes) for arm, given in scores.items()}

    def figures(weights: Weights) -> dict[str, float]:
        found = {arm: areas(drawn, weights) for arm, drawn in by_arm.items()}
        return {f"{name}_{arm}": value for arm, ranked in found.items() for name, value in ranked.items()} | {
            f"{name}_{one}_minus_{other}": found[one][name] - found[other][name]
            for one, other in DIFFERENCES
            for name in found[one]
        }

    return figures
