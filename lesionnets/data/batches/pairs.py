"""Augmented images with masks, on which segmentation networks are trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lesionnets.data.augment import augment_pair
from lesionnets.data.prefetch import epoch_random, prefetched, shuffled


class Pairs:
    """Augmented batches: images uint8 [B, 3, size, size] and masks uint8 [B, 1, size, size].

    Args:
        images: Uint8 [N, S, S, 3]; a little larger than ``size``, so that zooming in stays sharp.
        masks: Uint8 [N, S, S], 0 to 255.
        size: Side of the output in pixels.
        batch_size: Images in a batch.
    """

    def __init__(
        self, images: npt.NDArray[np.uint8], masks: npt.NDArray[np.uint8], size: int, batch_size: int
    ) -> None:
        self.images, self.masks = images, masks
        self.size, self.batch_size = size, batch_size

    def __len__(self) -> int:
        return max(len(self.images) // self.batch_size, 1)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Random numbers are drawn here: in the thread this would race with the network's dropout for
        # torch's numbers.
        random = epoch_random()
        return prefetched(self._batches(list(shuffled(len(self.images), self.batch_size)), random))

    def _batches(
        self, batches: Sequence[npt.NDArray[np.int64]], random: np.random.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in batches:
            pairs = [augment_pair(self.images[i], self.masks[i], self.size, random) for i in indices]
            images = np.stack([image for image, _ in pairs])
            masks = np.stack([mask for _, mask in pairs])
            yield torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)[:, None]
