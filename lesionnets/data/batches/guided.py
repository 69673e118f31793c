"""Whole pictures with lesion masks and diagnoses, on which mask-guided classifiers are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lesionnets.data.augment import augment_pair, coarsen
from lesionnets.data.prefetch import epoch_random, prefetched, shuffled
from lesionnets.data.sources.isic import DIAGNOSES, Sample, read_image, read_mask

Image = npt.NDArray[np.uint8]
Random = np.random.Generator

BLIND = 0.05
"""Share of views with an empty mask, as if segmentation had found nothing."""


@dataclass(frozen=True)
class Guided:
    """Labelled pictures in memory.

    Attributes:
        images: Uint8 [N, S, S, 3], squashed.
        masks: Uint8 [N, 2, S, S], 0 to 255: the segmentation network's, and the expert's if there is one, else the
            former again.
        labels: Int64 [N], indices in ``DIAGNOSES``.
    """

    images: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def unguided(self) -> Guided:
        """The same pictures with masks that say nothing: they cover the whole picture."""
        return Guided(self.images, np.broadcast_to(np.uint8(255), self.masks.shape), self.labels)


def load_guided(samples: Sequence[Sample], size: int, segment: Callable[[Image], Image]) -> Guided:
    """Read labelled images and find their lesions.

    Args:
        samples: With diagnoses; those without are skipped.
        size: Side in pixels to which pictures are squashed.
        segment: Function from an image to its lesion's probability x 255.

    Raises:
        UsageError: If a file cannot be decoded.
    """
    labelled = [sample for sample in samples if sample.diagnosis is not None]
    images = np.empty((len(labelled), size, size, 3), np.uint8)
    masks = np.empty((len(labelled), 2, size, size), np.uint8)
    for i, sample in enumerate(labelled):
        image = read_image(sample.image)
        coarse = cv2.resize(segment(image), (size, size), interpolation=cv2.INTER_AREA)
        images[i] = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        masks[i] = coarse, read_mask(sample.mask, size) if sample.mask else coarse
    labels = [DIAGNOSES.index(sample.diagnosis) for sample in labelled if sample.diagnosis]
    return Guided(images, masks, np.array(labels, np.int64))


class GuidedViews:
    """Augmented batches: images uint8 [B, 3, size, size], masks uint8 [B, 1, size, size], labels int64 [B].

    Args:
        pictures: Pictures a little larger than ``size``, so that zooming in stays sharp.
        size: Side of the output in pixels.
        batch_size: Images in a batch.
        guided: If not, every mask covers the whole view, however the picture was turned and shifted.
    """

    def __init__(self, pictures: Guided, size: int, batch_size: int, *, guided: bool = True) -> None:
        self.pictures, self.size, self.batch_size, self.guided = pictures, size, batch_size, guided

    def __len__(self) -> int:
        return max(len(self.pictures.images) // self.batch_size, 1)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        # Random numbers are drawn here: in the thread this would race with the network's dropout for
        # torch's numbers.
        random = epoch_random()
        return prefetched(self._batches(list(shuffled(len(self.pictures.images), self.batch_size)), random))

    def _batches(
        self, batches: Sequence[npt.NDArray[np.int64]], random: Random
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for indices in batches:
            views = [self._view(int(i), random) for i in indices]
            images = torch.from_numpy(np.stack([image for image, _ in views])).permute(0, 3, 1, 2)
            masks = torch.from_numpy(np.stack([mask for _, mask in views]))[:, None]
            masks = masks if self.guided else torch.full_like(masks, 255)
            yield images, masks, torch.from_numpy(self.pictures.labels[indices])

    def _view(self, index: int, random: Random) -> tuple[Image, Image]:
        mask = self.pictures.masks[index, random.integers(2)]
        image, mask = augment_pair(self.pictures.images[index], mask, self.size, random)
        if random.random() < 0.4:
            image = coarsen(image, random)
        return image, np.zeros_like(mask) if random.random() < BLIND else mask
