"""Pairs of patches for super-resolution, drawn once and kept as bytes; see :mod:`.patches`.

Blurring, reducing and coding patches costs a processor as much as the steps of a small network. So a pool of them
is made before training, and training draws from it, turning and mirroring them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from PIL import Image as PillowImage
from torch import Tensor

from dermbatch.errors import UsageError
from lesionnets.data.batches.patches import SHARES, to_tensor
from lesionnets.data.degradations import SCALE, Degradation, Image, degrade

LEAST_DETAIL = 0.32
"""Half of the patches come from a picture that was reduced to between this share and all of its size: other
dermatoscopes, and pictures of fewer pixels, show more detail a pixel."""


class PooledPatches:
    """Batches of float tensors in 0 to 1: [N, 3, patch, patch] and [N, 3, scale patch, scale patch].

    Args:
        images: RGB uint8 [H, W, 3]; those that are smaller than a patch are skipped. They are read once.
        patch: Side of the small patches in pixels; a multiple of 8 leaves JPEG's blocks in place, however turned.
        each: Number of pairs from each image.
        batch_size: Pairs in a batch.
        steps: Batches in an epoch.
        seed: Seed of the pool.
        scale: Sides of the originals over those of the small patches.
        shares: How often patches are degraded in each way; they sum to 1.

    Raises:
        UsageError: If no image is large enough.
    """

    def __init__(
        self,
        images: Iterable[Image],
        *,
        patch: int,
        each: int,
        batch_size: int,
        steps: int,
        seed: int,
        scale: int = SCALE,
        shares: Mapping[Degradation, float] = SHARES,
    ) -> None:
        random, side = np.random.default_rng(seed), patch * scale
        pairs = [
            _pair(image, side, scale, shares, random)
            for image in images
            if min(image.shape[:2]) >= side
            for _ in range(each)
        ]
        if not pairs:
            raise UsageError(f"no training image measures {side} pixels on both sides; give larger images")
        self._small, self._truth = (np.stack(part) for part in zip(*pairs, strict=True))
        self._batch_size, self._steps = batch_size, steps

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self._steps):
            chosen = torch.randint(len(self._truth), (self._batch_size,)).numpy()
            turns, mirrored = int(torch.randint(4, ())), bool(torch.rand(()) < 0.5)
            small, truth = (_turned(part[chosen], turns, mirrored) for part in (self._small, self._truth))
            yield to_tensor(small), to_tensor(truth)


def _turned(images: Image, turns: int, mirrored: bool) -> Image:
    turned = np.rot90(images, k=turns, axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if mirrored else turned)


def _pair(
    image: Image, side: int, scale: int, shares: Mapping[Degradation, float], random: np.random.Generator
) -> tuple[Image, Image]:
    share = LEAST_DETAIL ** random.random() if random.random() < 0.5 else 1.0
    window = min(round(side / share), *image.shape[:2])
    # Lesions lie in the middle: most patches do.
    middle = np.clip(random.normal(0.5, 0.22, 2), 0, 1)
    top, left = (round(place * (length - window)) for place, length in zip(middle, image.shape[:2], strict=True))
    truth = np.ascontiguousarray(image[top : top + window, left : left + window])
    if window != side:
        reduced = PillowImage.fromarray(truth).resize((side, side), PillowImage.Resampling.BICUBIC)
        truth = np.asarray(reduced, dtype=np.uint8)
    how = list(shares)[random.choice(len(shares), p=list(shares.values()))]
    return degrade(truth, how, random, scale=scale), truth
