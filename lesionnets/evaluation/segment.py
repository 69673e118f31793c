"""How well segmentation agrees with the experts' masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.errors import BadInput, UsageError
from dermbatch.images.imagefile import read_image
from dermbatch.images.lesion import MOST, THRESHOLD, lesion_mask
from lesionnets.data.sources.isic import Image, Sample, read_fitting_mask
from lesionnets.evaluation.figures.boundary import boundary
from lesionnets.evaluation.figures.calibration import pixel_error, pixel_gaps
from lesionnets.evaluation.figures.intervals import Figure, bootstrap, bootstrap_mean
from lesionnets.evaluation.figures.overlap import Mask, agreement
from lesionnets.evaluation.models.predictors import LoadedModel

Watched = Callable[[Sequence[Sample]], Iterable[Sample]]
"""Iterates over samples, and may show its progress."""

Rows = list[dict[str, object]]
"""A row of a table for an image: its id and its measures."""

MOST_PIXELS = 1_000_000_000


def evaluate(
    model: LoadedModel,
    samples: Sequence[Sample],
    *,
    native: bool = False,
    raw: bool = False,
    watched: Watched = iter,
    long_side: int | None = None,
    rows: Rows | None = None,
) -> dict[str, Figure]:
    """Means over images with 95 % bootstrap intervals, at the masks' own resolution.

    Args:
        model: A model of the segment stage.
        samples: Images with masks.
        native: Send all pixels instead of as many as a worker sends.
        raw: Take the network's mask instead of the one that a worker makes of it.
        watched: Iterates over the samples, and may show progress.
        long_side: Pixels to which pictures are reduced before all else, as if another camera had taken them.
        rows: If given, a row of figures is added to it for each image.

    Returns:
        The figures of :func:`~lesionnets.evaluation.figures.overlap.agreement` and
        :func:`~lesionnets.evaluation.figures.boundary.boundary`, and ``calibration_error`` of the pixels'
        probabilities.

    Raises:
        UsageError: If a sample has no mask, an empty one or one of another shape than its image, or a file cannot
            be read.
    """
    scores, gaps = [], []
    for sample in watched(samples):
        image, truth = read_pair(sample)
        probability = lesion_probability(model, reduced(image, long_side), native=native)
        mask = (
            network_mask(model, probability, truth.shape) if raw else worker_mask(model, probability, truth.shape)
        )
        scores.append(agreement(mask, truth) | boundary(mask, truth))
        if rows is not None:
            rows.append({"image_id": sample.image_id, "contrast": contrast(image, truth), **scores[-1]})
        gaps.append(pixel_gaps(enlarged(probability, truth.shape), truth))
    table = np.stack(gaps)
    means = {name: bootstrap_mean([each[name] for each in scores]) for name in scores[0]}
    return means | bootstrap(lambda weights: {"calibration_error": pixel_error(table, weights)}, len(table))


def read_picture(sample: Sample) -> Image:
    """Decode an image as a worker does: RGB uint8 [H, W, 3].

    Raises:
        UsageError: If a worker would refuse it.
    """
    try:
        return np.asarray(read_image(sample.image.read_bytes(), max_pixels=MOST_PIXELS).pixels, np.uint8)
    except BadInput as error:
        raise UsageError(f"{sample.image} cannot be read: {error}") from error


def reduced(image: Image, long_side: int | None) -> Image:
    """Reduce a picture by area to this long side; it is returned as it is if it has no more pixels."""
    height, width = image.shape[:2]
    if long_side is None or max(height, width) <= long_side:
        return image
    share = long_side / max(height, width)
    size = (max(round(width * share), 1), max(round(height * share), 1))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def contrast(image: Image, lesion: Mask) -> float:
    """Distance in CIELAB of a lesion's mean colour from that of the skin around it; below 10 it is faint.

    The skin is a ring as wide as a tenth of the lesion's extent; nan if the lesion leaves none.
    """
    small = reduced(image, 256)
    inside = cv2.resize(lesion.astype(np.uint8), (small.shape[1], small.shape[0]), interpolation=cv2.INTER_NEAREST)
    width = max(3, int(0.2 * np.sqrt(inside.sum())) | 1)
    ring = cv2.dilate(inside, np.ones((width, width), np.uint8)) - inside
    if not inside.any() or not ring.any():
        return float("nan")
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return float(np.linalg.norm(lab[inside > 0].mean(axis=0) - lab[ring > 0].mean(axis=0)))


def read_pair(sample: Sample) -> tuple[Image, Mask]:
    """An image, and its expert's mask at the mask's own resolution.

    Raises:
        UsageError: If a worker would refuse the image, or the mask is missing, empty, cannot be read, or has not
            the image's proportions.
    """
    if sample.mask is None:
        raise UsageError(f"{sample.image} has no mask")
    image = read_picture(sample)
    return image, read_fitting_mask(sample.mask, *image.shape[:2]) > 0


def lesion_probability(model: LoadedModel, image: Image, *, native: bool) -> npt.NDArray[np.uint8]:
    """The answer of a model of the segment stage: probability x 255, [h, w], at the size that it was sent."""
    return np.asarray(model(IMAGE=model.fitted(image, native=native))["LESION"], np.uint8)


def worker_mask(model: LoadedModel, probability: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> Mask:
    """The mask as a worker makes it: cut at the model's threshold, with holes filled and one lesion kept."""
    threshold, most = model.number("threshold", THRESHOLD), max(1, int(model.number("lesions", MOST)))
    found = lesion_mask(probability, (shape[0], shape[1]), threshold=threshold, most=most)
    return np.asarray(found.mask > 0)


def network_mask(model: LoadedModel, probability: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> Mask:
    """The pixels whose probability reaches the model's threshold."""
    return np.asarray(enlarged(probability, shape) >= model.number("threshold", THRESHOLD) * 255)


def enlarged(probability: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Resize a map to another resolution, [h, w]."""
    size = (shape[1], shape[0])
    return np.asarray(cv2.resize(probability, size, interpolation=cv2.INTER_LINEAR), np.uint8)
