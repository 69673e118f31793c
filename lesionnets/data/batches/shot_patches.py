"""Random pairs of patches for super-resolution, degraded on the training device; see :mod:`.patches`.

The same ways of degrading and the same shares as there, by the same operations on whole batches of tensors, so
that a GPU need not wait for pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lesionnets.data.batches.patches import SHARES
from lesionnets.data.degradations import SCALE, STRENGTHS, Degradation, Image
from lesionnets.data.tensor_camera import blurred, in_levels, jpeg, noisy, uniform

LEAST_DETAIL = 0.55
"""Pictures are reduced to between this share and all of their size before a patch is cut: others are sharper."""


class ShotPatches:
    """Batches of float tensors in 0 to 1: [N, 3, patch, patch] and [N, 3, 4 patch, 4 patch].

    Args:
        images: RGB uint8 [S, S, 3], all of one size.
        where: Device that they are kept and degraded on.
        patch: Side of the small patches, pixels; a multiple of 16.
        batch_size: Pairs in a batch.
        steps: Batches in an epoch.
    """

    def __init__(
        self, images: Sequence[Image], where: torch.device, *, patch: int, batch_size: int, steps: int
    ) -> None:
        self._images = torch.from_numpy(np.stack(images)).to(where)
        self._where, self._patch, self._batch_size, self._steps = where, patch, batch_size, steps

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self._steps):
            with torch.no_grad(), torch.autocast(self._where.type, enabled=False):
                truth = self._truth()
                parts = torch.split(truth, _counts(len(truth)))
                small = [_shot(part, how) for part, how in zip(parts, SHARES, strict=True)]
            yield torch.cat(small), truth

    def _truth(self) -> Tensor:
        side, whole = self._patch * SCALE, self._images.shape[1]
        share = float(torch.empty(()).uniform_(LEAST_DETAIL, 1.3))
        window = min(round(side / min(share, 1.0)), whole)
        count, where = self._batch_size, self._where
        # Lesions lie in the middle: most patches do.
        place = (0.5 + 0.22 * torch.randn(2, count, device=where)).clamp(0, 1)
        starts = (place * (whole - window)).round().long()
        rows, columns = (start[:, None] + torch.arange(window, device=where) for start in starts)
        index = torch.randint(len(self._images), (count,), device=where)
        cut = self._images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        cut = cut.permute(0, 3, 1, 2).float() / 255
        if window != side:
            cut = functional.interpolate(cut, size=(side, side), mode="bicubic", antialias=True)
        cut = in_levels(cut)
        for axes in ((2,), (3,)):
            flip = torch.rand(count, 1, 1, 1, device=where) < 0.5
            cut = torch.where(flip, cut.flip(axes), cut)
        return cut.transpose(2, 3).contiguous() if float(torch.rand(())) < 0.5 else cut


def _counts(total: int) -> list[int]:
    """Pictures of a batch for each way of degrading."""
    counts = [round(share * total) for share in SHARES.values()]
    return [total - sum(counts[1:]), *counts[1:]]


def _shot(truth: Tensor, how: Degradation) -> Tensor:
    """As :func:`lesionnets.data.degradations.degrade`, each picture with strengths of its own."""
    if not len(truth):
        return truth[..., ::SCALE, ::SCALE]
    if how is Degradation.AREA:
        return in_levels(functional.avg_pool2d(truth, SCALE))
    if how is Degradation.PLAIN:
        return _bicubic(truth)
    strengths, count, where = STRENGTHS[how], len(truth), truth.device
    small = _bicubic(blurred(truth, uniform(count, *strengths.blur, where), radius=9))
    grain = uniform(count, *strengths.noise, where) / 255
    return in_levels(jpeg(in_levels(noisy(small, grain)), uniform(count, *strengths.quality, where).round()))


def _bicubic(truth: Tensor) -> Tensor:
    size = (truth.shape[2] // SCALE, truth.shape[3] // SCALE)
    return in_levels(functional.interpolate(truth, size=size, mode="bicubic", antialias=True))
