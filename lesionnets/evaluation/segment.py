"""How well segmentation agrees with the experts' masks."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.errors import UsageError
from lesionnets.data.isic import Sample, read_image, read_mask
from lesionnets.evaluation.intervals import Figure, bootstrap_mean
from lesionnets.evaluation.overlap import Mask, dice, jaccard
from lesionnets.evaluation.predictors import Run


def evaluate(run: Run, samples: Sequence[Sample]) -> dict[str, Figure]:
    """Means over images, each with its 95 % bootstrap interval, at the masks' own resolution.

    Args:
        run: Model of the segment stage.
        samples: Images with masks.

    Returns:
        ``jaccard``, ``dice``, ``sensitivity`` and ``specificity`` of pixels.

    Raises:
        UsageError: Where a sample has no mask, or one of another shape than its image.
    """
    scores = [score(run, sample) for sample in samples]
    return {name: bootstrap_mean([each[name] for each in scores]) for name in scores[0]}


def score(run: Run, sample: Sample) -> dict[str, float]:
    """The figures of one image."""
    if sample.mask is None:
        raise UsageError(f"{sample.image} has no mask")
    image, truth = read_image(sample.image), read_mask(sample.mask) > 0
    predicted = binary(run(IMAGE=image)["LESION"], truth.shape, sample)
    return {
        "jaccard": jaccard(predicted, truth),
        "dice": dice(predicted, truth),
        "sensitivity": _share(predicted & truth, truth),
        "specificity": _share(~predicted & ~truth, ~truth),
    }


def binary(lesion: npt.NDArray[np.uint8], shape: tuple[int, ...], sample: Sample) -> Mask:
    """The lesion's pixels (one half and more) at the mask's resolution, which may be finer than the image's.

    Raises:
        UsageError: Where the mask's proportions are not the image's.
    """
    height, width = lesion.shape
    if abs(shape[0] * width - shape[1] * height) > max(height, width) + max(shape):
        raise UsageError(f"{sample.mask} is {shape[1]} x {shape[0]} pixels, its image {width} x {height}")
    if lesion.shape != shape:
        lesion = np.asarray(cv2.resize(lesion, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.uint8)
    return np.asarray(lesion >= 128)


def _share(part: Mask, whole: Mask) -> float:
    total = np.count_nonzero(whole)
    return np.count_nonzero(part) / total if total else 1.0
