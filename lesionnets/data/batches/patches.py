"""Random pairs of patches for super-resolution: degraded, and the originals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dermbatch.errors import UsageError
from lesionnets.data.degradations import SCALE, Degradation, Image, degrade
from lesionnets.data.prefetch import epoch_random, prefetched

SHARES = {Degradation.PLAIN: 0.35, Degradation.AREA: 0.1, Degradation.CLINICAL: 0.3, Degradation.PAPER: 0.25}
"""How patches are degraded. One network serves clean and noisy pictures, which it tells apart by their noise."""


class PatchPairs:
    """Batches of pairs of low- and high-resolution patches; every epoch draws new ones.

    Yields pairs of float tensors in 0 to 1: [N, 3, patch, patch] and [N, 3, 4 patch, 4 patch].

    Args:
        images: RGB uint8 [H, W, 3]; those that are smaller than a patch are skipped.
        patch: Side of the small patches in pixels.
        batch_size: Pairs in a batch.
        steps: Batches in an epoch.

    Raises:
        UsageError: If no image is large enough.
    """

    def __init__(self, images: Sequence[Image], *, patch: int, batch_size: int, steps: int) -> None:
        side = patch * SCALE
        self._images = [image for image in images if min(image.shape[:2]) >= side]
        if not self._images:
            raise UsageError(
                f"no lesion of the training images measures {side} pixels on both sides; give larger images"
            )
        self._patch, self._batch_size, self._steps = patch, batch_size, steps

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return prefetched(self._batches(epoch_random()))

    def _batches(self, random: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self._steps):
            pairs = [self._pair(random) for _ in range(self._batch_size)]
            small, truth = (np.stack(images) for images in zip(*pairs, strict=True))
            yield to_tensor(small), to_tensor(truth)

    def _pair(self, random: np.random.Generator) -> tuple[Image, Image]:
        image = self._images[random.integers(len(self._images))]
        side = self._patch * SCALE
        top, left = (random.integers(length - side + 1) for length in image.shape[:2])
        truth = np.rot90(image[top : top + side, left : left + side], k=random.integers(4))
        if random.random() < 0.5:
            truth = truth[:, ::-1]
        truth = np.ascontiguousarray(truth)
        how = list(SHARES)[random.choice(len(SHARES), p=list(SHARES.values()))]
        return degrade(truth, how, random), truth


def to_tensor(images: Image) -> Tensor:
    """Convert bytes [N, H, W, 3] to float [N, 3, H, W], 0 to 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255
