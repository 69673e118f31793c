"""Squares around lesions for training and validating a classifier, cut as the served graph cuts them.

The square of an empty mask spans the picture; a network that is not guided by the lesion sees that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lesionnets.data.augment import coarsen, draw_hairs, jitter_colour
from lesionnets.data.prefetch import epoch_random, prefetched, shuffled
from lesionnets.data.sources.isic import DIAGNOSES, Sample, read_image, read_pair
from lesionnets.graphs.crop import lesion_square

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]
Random = np.random.Generator
Views = tuple[Tensor, Tensor, Tensor]
"""Images uint8 [N, 3, S, S], masks uint8 [N, 1, S, S], labels int64 [N]."""

MASK_SIZE = 128
"""Side to which masks are squashed to find the square."""


@dataclass(frozen=True)
class Lesion:
    """One labelled image in memory.

    Attributes:
        image: RGB uint8 [H, W, 3].
        masks: One or more masks of its lesion, uint8 [H, W]: the segmentation network's first, then the expert's.
        label: Index of the diagnosis.
    """

    image: Image
    masks: tuple[Mask, ...]
    label: int


def load_lesions(samples: Sequence[Sample], segment: Callable[[Image], Mask]) -> list[Lesion]:
    """Read labelled images, segment them, and add the expert's mask if there is one."""
    lesions = []
    for sample in samples:
        if sample.diagnosis is None:
            continue
        image, expert = (read_image(sample.image), None) if sample.mask is None else read_pair(sample)
        masks = (segment(image),) if expert is None else (segment(image), expert)
        lesions.append(Lesion(image, masks, DIAGNOSES.index(sample.diagnosis)))
    return lesions


def load_pictures(samples: Sequence[Sample], diagnoses: Sequence[str], most: int) -> list[Lesion]:
    """Read labelled images with empty masks, for a network that sees whole pictures.

    Args:
        samples: Images, each with a diagnosis.
        diagnoses: The classes, in order.
        most: Longer side in pixels to which larger images are reduced, to save memory.
    """
    lesions = []
    for sample in samples:
        if sample.diagnosis is None:
            continue
        image = read_image(sample.image)
        height, width = image.shape[:2]
        if max(height, width) > most:
            share = most / max(height, width)
            small = (max(round(width * share), 1), max(round(height * share), 1))
            image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)
        empty = np.zeros(image.shape[:2], np.uint8)
        lesions.append(Lesion(image, (empty,), diagnoses.index(sample.diagnosis)))
    return lesions


class RandomViews:
    """Batches of random views, with every lesion once in an epoch.

    Args:
        lesions: The lesions in memory.
        size: Side of the views in pixels.
        batch_size: Views in a batch.
    """

    def __init__(self, lesions: Sequence[Lesion], size: int, batch_size: int) -> None:
        self.lesions, self.size, self.batch_size = lesions, size, batch_size

    def __len__(self) -> int:
        return max(len(self.lesions) // self.batch_size, 1)

    def __iter__(self) -> Iterator[Views]:
        # Random numbers are drawn here: in the thread this would race with the network's dropout for
        # torch's numbers.
        random = epoch_random()
        return prefetched(self._batches(list(shuffled(len(self.lesions), self.batch_size)), random))

    def _batches(self, batches: Sequence[npt.NDArray[np.int64]], random: Random) -> Iterator[Views]:
        for indices in batches:
            chosen = [self.lesions[i] for i in indices]
            yield stack([random_view(lesion, self.size, random) for lesion in chosen], chosen)


def stack(views: Sequence[tuple[Image, Mask]], lesions: Sequence[Lesion]) -> Views:
    """Views and labels as tensors."""
    images = torch.from_numpy(np.stack([image for image, _ in views])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([mask for _, mask in views]))[:, None]
    return images, masks, torch.tensor([lesion.label for lesion in lesions])


def square_of(mask: Mask) -> tuple[float, float, float]:
    """Centre row, centre column and side, in pixels, of the square around the lesion of a mask uint8 [H, W]."""
    height, width = mask.shape
    small = cv2.resize(mask, (MASK_SIZE, MASK_SIZE), interpolation=cv2.INTER_AREA)
    found = lesion_square(torch.from_numpy(small)[None, None].float() / 255, height, width)[0]
    return float(found[0]) * height, float(found[1]) * width, float(found[2])


def random_view(lesion: Lesion, size: int, random: Random) -> tuple[Image, Mask]:
    """A random view of a lesion: turned, mirrored, a little zoomed, shifted and squashed, in other light.

    Now and then it is the whole picture with an empty mask, as if segmentation had found nothing.

    Returns:
        Image [size, size, 3] and mask [size, size].
    """
    mask = lesion.masks[random.integers(len(lesion.masks))]
    if random.random() < 0.05:
        mask = np.zeros_like(mask)
    row, column, side = square_of(mask)
    row, column = row + random.normal(0, 0.05) * side, column + random.normal(0, 0.05) * side
    side *= math.exp(random.normal(0, 0.15))
    squash = random.uniform(0.8, 1.0) if random.random() < 0.3 else 1.0
    angle = random.uniform(0, 2 * math.pi)
    mirror = -1.0 if random.random() < 0.5 else 1.0
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = matrix @ np.diag([mirror, squash])
    image, mask = _cut(lesion.image, mask, (row, column, side), size, matrix)
    if random.random() < 0.15:
        image = draw_hairs(image, random)
    if random.random() < 0.4:
        image = coarsen(image, random)
    return jitter_colour(image, random), mask


def plain_view(lesion: Lesion, size: int) -> tuple[Image, Mask]:
    """The view that is served: unchanged, by the segmentation network's mask."""
    return _cut(lesion.image, lesion.masks[0], square_of(lesion.masks[0]), size, np.eye(2))


def _cut(
    image: Image, mask: Mask, square: tuple[float, float, float], size: int, matrix: npt.NDArray[np.float64]
) -> tuple[Image, Mask]:
    """Cut a square at twice the size and average it, against aliasing, as the graph does."""
    row, column, side = square
    scaled = matrix * (2 * size / side)
    offset = size - scaled @ np.array([column, row])
    affine = np.column_stack([scaled, offset])
    double, single = (2 * size, 2 * size), (size, size)
    cut = [cv2.warpAffine(values, affine, double, borderMode=cv2.BORDER_REPLICATE) for values in (image, mask)]
    view, label = (cv2.resize(values, single, interpolation=cv2.INTER_AREA) for values in cut)
    return np.asarray(view, np.uint8), np.asarray(label, np.uint8)
