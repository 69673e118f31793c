"""Pairs of clean and covered crops, composed of pictures and layers on the training device.

Layers (:mod:`lesionnets.data.layers`) are drawn once, or lifted from real hairy pictures, and kept in a bank. They
are laid over clean pictures, each time turned, enlarged, paler and in another colour, and the result goes through
a camera: blur, noise, JPEG, reduction. On a GPU this takes less time than a step of the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lesionnets.data.batches.occluded import Background, Planes
from lesionnets.data.layers import Image, Layer, any_layer, lifted_layer
from lesionnets.data.sources.isic import Sample, read_pair
from lesionnets.data.tensor_camera import BLOCK, blurred, in_levels, jpeg, noisy, uniform

Item = TypeVar("Item")
Made = TypeVar("Made")

SIDE = 512
LIFTED = 0.4
"""Share of the layers that are real hair."""
STOP_SEEN, CHANGE_SEEN = 0.06, 5 / 255
"""A pixel is covered if a layer stops at least this much light and changes the picture by at least this much."""


@dataclass(frozen=True)
class LayerBank:
    """Layers in memory, uint8 [M, 3, S, S]; ``stops`` is 255 minus what a layer lets through."""

    stops: Tensor
    owns: Tensor
    drawn: int
    """So many layers, the first ones, are drawn; the others are lifted."""


def make_bank(
    count: int, lifted: Sequence[Layer], *, seed: int, side: int = SIDE, processes: int = 1
) -> LayerBank:
    """Draw layers and add lifted ones; the result depends on the seed, not on the number of processes."""
    make = partial(_drawn, side, seed)
    layers = [*spread_out(make, range(count), processes), *lifted]
    stops = torch.empty(len(layers), 3, side, side, dtype=torch.uint8)
    owns = torch.empty_like(stops)
    for i, layer in enumerate(layers):
        stops[i] = torch.from_numpy(255 - layer.through).permute(2, 0, 1)
        owns[i] = torch.from_numpy(layer.own).permute(2, 0, 1)
    return LayerBank(stops, owns, count)


def lift(samples: Sequence[Sample], *, processes: int = 1) -> list[Layer]:
    """Lift the hair of pictures with masks, in squares of ``SIDE``."""
    return spread_out(_lifted, samples, processes)


def spread_out(make: Callable[[Item], Made], items: Sequence[Item], processes: int) -> list[Made]:
    """Apply ``make`` to each item, in order, in separate processes if more than one is asked for."""
    if processes < 2:
        return [make(item) for item in items]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return list(pool.map(make, items, chunksize=4))


def _drawn(side: int, seed: int, index: int) -> Layer:
    cv2.setNumThreads(1)
    return any_layer(side, (seed, index))


def _lifted(sample: Sample) -> Layer:
    cv2.setNumThreads(1)
    image, mask = read_pair(sample)
    size = (SIDE, SIDE)
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    mask = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), np.uint8)
    return lifted_layer(image, mask > 127)


class LaidOver:
    """Batches of crops of newly covered pictures; see :data:`lesionnets.data.batches.occluded.Planes`.

    Args:
        backgrounds: Clean pictures of at least ``SIDE`` x ``SIDE`` pixels, to which they are cut.
        bank: The layers.
        where: Device on which pictures and layers are kept and composed.
        crop: Largest side of the crops, pixels; a multiple of ``BLOCK``.
        batch_size: Crops in a batch.
        steps: Batches in an epoch.
    """

    def __init__(
        self,
        backgrounds: Sequence[Background],
        bank: LayerBank,
        where: torch.device,
        *,
        crop: int,
        batch_size: int,
        steps: int,
    ) -> None:
        self._where, self._crop, self._batch_size, self._steps = where, crop, batch_size, steps
        self._images = torch.stack([_square(one.image) for one in backgrounds]).to(where)
        self._found = torch.stack([_square(one.found.astype(np.uint8)[..., None]) for one in backgrounds]).to(
            where
        )
        self._stops, self._owns, self._drawn = bank.stops.to(where), bank.owns.to(where), bank.drawn

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Planes]:
        for _ in range(self._steps):
            with torch.no_grad(), torch.autocast(self._where.type, enabled=False):
                batch = self._batch()
            yield batch

    def _batch(self) -> Planes:
        # The short side of 512 is shown to the network as 170 (a small, far picture) to 560 pixels.
        short = math.exp(float(torch.empty(()).uniform_(math.log(170), math.log(560))))
        factor = SIDE / short
        crop = min(self._crop, int(SIDE / factor) // BLOCK * BLOCK)
        window = -(-round(crop * max(factor, 1.0)) // BLOCK) * BLOCK
        zoom = min(factor, 1.0)
        clean, unknown = self._under(window, zoom)
        covered, mask = clean, torch.zeros_like(unknown)
        for chance in (0.94, 0.3):
            over = self._laid(covered, window, zoom, chance)
            mask = torch.maximum(mask, over[1])
            covered = over[0]
        covered, clean = self._seen(covered, clean)
        size = (crop, crop)
        covered, clean, mask, unknown = (_reduced(values, size) for values in (covered, clean, mask, unknown))
        covered = _some(covered, 0.4, lambda x: jpeg(x, uniform(len(x), 35, 95, self._where)))
        return in_levels(covered), clean, mask, (unknown * (1 - mask)).clamp(0, 1)

    def _under(self, window: int, zoom: float) -> tuple[Tensor, Tensor]:
        """Clean windows in changed light, and where their truth is not known."""
        count, where = self._batch_size, self._where
        index = torch.randint(len(self._images), (count,), device=where)
        grid = self._grid(window, zoom, uniform(count, 0.85, 1.05, where))
        picture = functional.grid_sample(
            self._images[index].float() / 255, grid, padding_mode="reflection", align_corners=False
        )
        found = functional.grid_sample(
            self._found[index].float(), grid, padding_mode="reflection", align_corners=False
        )
        gain = uniform(count, 0.7, 1.2, where)[:, None] * torch.exp(0.08 * torch.randn(count, 3, device=where))
        picture = picture * gain[..., None, None] + 0.02 * torch.randn(count, 3, 1, 1, device=where)
        grey = picture.mean(dim=1, keepdim=True)
        picture = grey + (picture - grey) * torch.exp(0.2 * torch.randn(count, 1, 1, 1, device=where))
        return picture.clamp(0, 1), (found > 0.1).float()

    def _laid(self, under: Tensor, window: int, zoom: float, chance: float) -> tuple[Tensor, Tensor]:
        """Pictures with a layer over most of them, and where it can be seen."""
        count, where = len(under), self._where
        lifted = len(self._stops) - self._drawn
        index = torch.randint(self._drawn, (count,), device=where)
        if lifted:
            real = self._drawn + torch.randint(lifted, (count,), device=where)
            index = torch.where(torch.rand(count, device=where) < LIFTED, real, index)
        grid = self._grid(window, zoom, torch.exp(uniform(count, -0.45, 0.45, where)))
        stop, own = (
            functional.grid_sample(layers[index].float() / 255, grid, padding_mode="zeros", align_corners=False)
            for layers in (self._stops, self._owns)
        )
        strength = torch.where(torch.rand(count, device=where) < 0.3, uniform(count, 0.3, 1.0, where), 1.0)
        strength = strength * (torch.rand(count, device=where) < chance)
        tint = torch.exp(0.2 * torch.randn(count, 1, device=where) + 0.08 * torch.randn(count, 3, device=where))
        stop, own = stop * strength[:, None, None, None], own * (tint * strength[:, None])[..., None, None]
        over = (under * (1 - stop) + torch.minimum(own, stop)).clamp(0, 1)
        change = (over - under).abs().amax(dim=1, keepdim=True)
        seen = (stop.amax(dim=1, keepdim=True) > STOP_SEEN) & (change > CHANGE_SEEN)
        return over, seen.float()

    def _seen(self, covered: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Pass both through the same lens, and the covered one also through sensor and JPEG."""
        count, where = len(covered), self._where
        both = torch.cat([covered, clean], dim=1)
        both = _some(both, 0.3, lambda x: blurred(x, uniform(len(x), 0.3, 1.4, where)))
        both = _some(both, 0.2, lambda x: _crisp(x, uniform(len(x), 0.2, 1.0, where)))
        covered, clean = both[:, :3], both[:, 3:]
        grain = torch.where(torch.rand(count, device=where) < 0.3, uniform(count, 0.0, 0.025, where), 0.0)
        coded = _some(noisy(covered, grain), 0.5, lambda x: jpeg(x, uniform(len(x), 30, 95, where)))
        return coded, clean

    def _grid(self, window: int, zoom: float, scale: Tensor) -> Tensor:
        """Points at which windows are sampled: turned, mirrored, shifted; ``scale`` source pixels a pixel."""
        count, where = len(scale), self._where
        angle = 2 * math.pi * torch.rand(count, device=where)
        mirror = torch.where(torch.rand(count, device=where) < 0.5, -1.0, 1.0)
        reach = window * zoom / SIDE * scale
        theta = torch.zeros(count, 2, 3, device=where)
        theta[:, 0, 0], theta[:, 0, 1] = torch.cos(angle) * reach * mirror, -torch.sin(angle) * reach
        theta[:, 1, 0], theta[:, 1, 1] = torch.sin(angle) * reach * mirror, torch.cos(angle) * reach
        room = (1 - reach).clamp(min=0.05)
        theta[:, :, 2] = (2 * torch.rand(count, 2, device=where) - 1) * room[:, None]
        return functional.affine_grid(theta, [count, 3, window, window], align_corners=False)


def _some(pictures: Tensor, chance: float, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change a share of a batch, always the same number, so that nothing waits for the device."""
    count = round(len(pictures) * chance)
    if not count:
        return pictures
    # Which ones is drawn: else those that are blurred would be those that are coded.
    by = int(torch.randint(len(pictures), ()))
    turned = pictures.roll(by, dims=0)
    return torch.cat([change(turned[:count]), turned[count:]]).roll(-by, dims=0)


def _crisp(pictures: Tensor, amount: Tensor) -> Tensor:
    """Sharpen pictures as cameras do."""
    soft = blurred(pictures, torch.full_like(amount, 1.2))
    return (pictures + amount[:, None, None, None] * (pictures - soft)).clamp(0, 1)


def _reduced(values: Tensor, size: tuple[int, int]) -> Tensor:
    if values.shape[-2:] == size:
        return values
    return functional.interpolate(values, size=size, mode="bilinear", align_corners=False, antialias=True)


def _square(picture: Image) -> Tensor:
    """The middle of a picture uint8 [H, W, C] as [C, SIDE, SIDE]; enlarged if it is smaller."""
    height, width = picture.shape[:2]
    scale = SIDE / min(height, width)
    size = (max(round(width * scale), SIDE), max(round(height * scale), SIDE))
    if scale != 1.0:
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8).reshape(
            *size[::-1], -1
        )
    top, left = ((side - SIDE) // 2 for side in picture.shape[:2])
    middle = picture[top : top + SIDE, left : left + SIDE]
    return torch.from_numpy(np.ascontiguousarray(middle)).permute(2, 0, 1)
