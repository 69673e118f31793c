"""Whether purification improves segmentation and classification on images with hair.

Hairs are drawn over images, and each image passes through the other stages three times: covered (``off``), covered
and purified (``on``), and as it was before the hairs (``clean``). These three are called arms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dermbatch.errors import UsageError
from dermbatch.phantoms.occlusion import draw_hairs
from lesionnets.data.sources.isic import Image, Sample
from lesionnets.evaluation import classify, segment
from lesionnets.evaluation.figures.intervals import Figure, Weights, bootstrap, bootstrap_mean
from lesionnets.evaluation.figures.overlap import jaccard
from lesionnets.evaluation.figures.ranking import areas, curves
from lesionnets.evaluation.models.predictors import LoadedModel

ARMS = ("off", "on", "clean")
DIFFERENCES = (("on", "off"), ("on", "clean"))

Probabilities = npt.NDArray[np.float32]


def evaluate(
    purifier: LoadedModel,
    segmenter: LoadedModel,
    classifier: LoadedModel | None,
    samples: Sequence[Sample],
    *,
    classes: Sequence[str] = (),
    native: bool = False,
    seed: int = 0,
    drawings: int = 1,
    rounds: int = 1000,
    watched: segment.Watched = iter,
) -> dict[str, Figure]:
    """Jaccard and AUC in each arm and their paired differences, with 95 % bootstrap intervals.

    Args:
        purifier: A model of the purify stage.
        segmenter: A model of the segment stage; the classifier is given its mask of the same arm.
        classifier: A model of the classify stage, if AUC is wanted.
        samples: Images, with diagnoses if there is a classifier. Those without a mask count for AUC only.
        classes: Names in the order of the classifier's probabilities; by default its own labels.
        native: Draw on and send all pixels instead of as many as a worker sends.
        seed: Seed of the hairs.
        drawings: How often hairs are drawn over each image. An image's figures are the means over these, so that
            the intervals depend less on where hair happens to fall.
        rounds: Resamplings of the bootstrap of AUC.
        watched: Iterates over the samples, and may show progress.

    Returns:
        ``jaccard_<arm>``, ``mean_auc_<arm>``, ``auc_<class>_<arm>``, and each with ``_on_minus_off`` and
        ``_on_minus_clean``. If the interval of a difference does not contain 0, the arms differ.

    Raises:
        UsageError: As :func:`lesionnets.evaluation.segment.read_pair` and
            :func:`lesionnets.evaluation.classify.known_classes`; where no sample has a mask.
    """
    if not any(sample.mask for sample in samples):
        raise UsageError("no image has a mask to measure segmentation against; name them with --masks")
    overlaps: dict[str, list[float]] = {arm: [] for arm in ARMS}
    rows: dict[str, list[Probabilities]] = {arm: [] for arm in ARMS}
    names: Sequence[str] = ()
    for index, sample in enumerate(watched(samples)):
        image, truth = (segment.read_picture(sample), None) if sample.mask is None else segment.read_pair(sample)
        seeds = [(seed, index, drawing) for drawing in range(drawings)]
        for arm, pictures in _arms(purifier, image, seeds, native=native).items():
            maps = [segment.lesion_probability(segmenter, picture, native=native) for picture in pictures]
            if truth is not None:
                scores = [jaccard(segment.worker_mask(segmenter, one, truth.shape), truth) for one in maps]
                overlaps[arm].append(float(np.mean(scores)))
            if classifier is not None:
                rows[arm].append(_diagnoses(segmenter, classifier, pictures, maps, native=native))
                names = names or classify.known_classes(classifier, rows[arm][0].shape[1], classes, samples)
    figures = {f"jaccard_{arm}": bootstrap_mean(values) for arm, values in overlaps.items()}
    for one, other in DIFFERENCES:
        changes = np.subtract(overlaps[one], overlaps[other])
        figures[f"jaccard_{one}_minus_{other}"] = bootstrap_mean(list(changes))
    if classifier is None:
        return figures
    labels = np.array([names.index(str(sample.diagnosis)) for sample in samples])
    ranked = _areas({arm: np.stack(given) for arm, given in rows.items()}, labels, names)
    return figures | bootstrap(ranked, len(labels), strata=labels, rounds=rounds)


def _diagnoses(
    segmenter: LoadedModel,
    classifier: LoadedModel,
    pictures: Sequence[Image],
    maps: Sequence[Image],
    *,
    native: bool,
) -> Probabilities:
    """Probabilities [pictures, classes]; each picture has the mask that a worker makes of its map."""
    lesions = [
        classify.as_bytes(segment.worker_mask(segmenter, one, picture.shape))
        for one, picture in zip(maps, pictures, strict=True)
    ]
    return np.stack(
        [
            classify.probabilities(classifier, picture, lesion, native=native)
            for picture, lesion in zip(pictures, lesions, strict=True)
        ]
    )


def _arms(
    purifier: LoadedModel, image: Image, seeds: Sequence[Sequence[int]], *, native: bool
) -> dict[str, list[Image]]:
    """Pictures of each arm, at the size that the purifier is sent: one for each seed, and one clean."""
    clean = purifier.fitted(image, native=native)
    covered = [draw_hairs(clean, np.random.default_rng(seed))[0] for seed in seeds]
    purified = [np.asarray(purifier(IMAGE=picture)["PURIFIED"], np.uint8) for picture in covered]
    return {"off": covered, "on": purified, "clean": [clean]}


def _areas(
    scores: Mapping[str, Probabilities], labels: npt.NDArray[np.int64], classes: Sequence[str]
) -> Callable[[Weights], dict[str, float]]:
    """The function from images' weights to the AUC of each arm, mean over its drawings, and the differences.

    Args:
        scores: [images, drawings, classes] of each arm.
        labels: [images].
        classes: Their names.
    """
    by_arm = {
        arm: [curves(given[:, drawing], labels, classes) for drawing in range(given.shape[1])]
        for arm, given in scores.items()
    }

    def figures(weights: Weights) -> dict[str, float]:
        found = {arm: _means([areas(one, weights) for one in drawings]) for arm, drawings in by_arm.items()}
        return {f"{name}_{arm}": value for arm, ranked in found.items() for name, value in ranked.items()} | {
            f"{name}_{one}_minus_{other}": found[one][name] - found[other][name]
            for one, other in DIFFERENCES
            for name in found[one]
        }

    return figures


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
