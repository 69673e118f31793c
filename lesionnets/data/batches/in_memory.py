"""All images of a training in the memory of the device that trains, augmented there, so that a GPU never waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lesionnets.data import overlays
from lesionnets.data.sources.folds import source_of
from lesionnets.data.sources.isic import DIAGNOSES, Sample, read_image, read_pair
from lesionnets.graphs.crop import lesion_square

LAYERS = 140
MASK_SIDE = 128


@dataclass(frozen=True)
class Album:
    """Images in memory, squashed to squares.

    Attributes:
        images: Uint8 [N, 3, S, S].
        masks: Uint8 [N, 1, S, S], 0 to 255; empty if there is none.
        squares: Float [N, 3]: centre row, centre column and side of the lesion's square, as shares of the picture.
        labels: Int64 [N]: index of the diagnosis; -1 if it is not known.
        sources: Int64 [N].
    """

    images: Tensor
    masks: Tensor
    squares: Tensor
    labels: Tensor
    sources: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, where: torch.device) -> Album:
        """The same album on a device."""
        return Album(**{name: value.to(where) for name, value in vars(self).items()})

    def of(self, chosen: Tensor) -> Album:
        """Some of the images, by index or by mask [N]."""
        return Album(**{name: value[chosen] for name, value in vars(self).items()})


def load_album(samples: Sequence[Sample], size: int) -> Album:
    """Read images with their masks and diagnoses, as far as there are any.

    Raises:
        UsageError: If a file cannot be read.
    """
    images = torch.empty(len(samples), 3, size, size, dtype=torch.uint8)
    masks = torch.zeros(len(samples), 1, size, size, dtype=torch.uint8)
    for index, sample in enumerate(samples):
        if sample.mask is None:
            image = read_image(sample.image, size)
        else:
            image, mask = read_pair(sample, size)
            masks[index, 0] = torch.from_numpy(mask)
        images[index] = torch.from_numpy(image).permute(2, 0, 1)
    labels = [DIAGNOSES.index(sample.diagnosis) if sample.diagnosis else -1 for sample in samples]
    sources = [source_of(sample.image_id) for sample in samples]
    return Album(images, masks, squares_of(masks), torch.tensor(labels), torch.tensor(sources))


def squares_of(masks: Tensor) -> Tensor:
    """Centre row, centre column and side [N, 3], as shares of the picture, of lesions in masks [N, 1, S, S]."""
    small = functional.adaptive_avg_pool2d(masks.float() / 255, MASK_SIDE)
    return lesion_square(small, 1, 1, margin=1.0, least=0.0)


def balanced(labels: Tensor, sources: Tensor, power: float) -> Tensor:
    """Chance of each image, [N], that balances the diagnoses within each source; fully with a power of 1."""
    group = sources * len(DIAGNOSES) + labels
    counts = torch.bincount(group)[group].float()
    source = torch.bincount(sources)[sources].float()
    return (source / counts) ** power


def hair_layers(size: int, seed: int) -> Tensor:
    """Layers for :func:`lesionnets.data.looks.overlaid`: uint8 [K, 4, size, size]."""
    drawn = overlays.layers(LAYERS, size, np.random.default_rng(seed))
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous()


def cut(album: Album, placed: Tensor, size: int, border: str) -> tuple[Tensor, Tensor]:
    """Cut views out of pictures and masks, as float; each pixel is the mean of four points.

    Args:
        album: As many pictures as views.
        placed: Float [N, 2, 3] affine maps from view to picture, both from -1 to 1.
        size: Side of the views in pixels.
        border: What lies outside of a picture: ``zeros``, ``border`` or ``reflection``.
    """
    grid = functional.affine_grid(placed, [len(album), 3, 2 * size, 2 * size], align_corners=False)
    images = functional.grid_sample(album.images.float() / 255, grid, padding_mode=border, align_corners=False)
    # A stretched surround would smear the lesion's label along with it: only mirrored ones keep theirs.
    around = "reflection" if border == "reflection" else "zeros"
    masks = functional.grid_sample(album.masks.float() / 255, grid, padding_mode=around, align_corners=False)
    return functional.avg_pool2d(images, 2), functional.avg_pool2d(masks, 2)


def affine(centres: Tensor, sides: Tensor, *, angle: Tensor, squash: Tensor, mirror: Tensor) -> Tensor:
    """Maps from view to picture, [N, 2, 3].

    Args:
        centres: [N, 2] column and row of the view's centre, -1 to 1.
        sides: [N] sides of the views; 1 is as large as the picture.
        angle: [N] radians.
        squash: [N, 2] factors of the picture's columns and rows.
        mirror: [N] 1 or -1.
    """
    cosine, sine = torch.cos(angle) * sides, torch.sin(angle) * sides
    rows = [torch.stack([cosine * mirror, -sine], dim=1), torch.stack([sine * mirror, cosine], dim=1)]
    turned = torch.stack(rows, dim=1) * squash[:, :, None]
    return torch.cat([turned, centres[:, :, None]], dim=2)


def random_affine(centres: Tensor, sides: Tensor, *, spread: float, shift: float) -> Tensor:
    """Maps of views that are turned, mirrored, squashed, zoomed and shifted at random around the given ones."""
    count, where = len(sides), sides.device
    sides = sides * torch.exp(spread * torch.randn(count, device=where))
    drop = (torch.rand(count, device=where) < 0.6) * 0.35 * torch.rand(count, device=where)
    wide = (torch.rand(count, device=where) < 0.75).float()
    squash = torch.stack([1 - drop * (1 - wide), 1 - drop * wide], dim=1)
    angle = 2 * torch.pi * torch.rand(count, device=where)
    mirror = 1 - 2 * (torch.rand(count, device=where) < 0.5).float()
    centres = centres + shift * sides[:, None] * torch.randn(count, 2, device=where)
    return affine(centres, sides, angle=angle, squash=squash, mirror=mirror)


def view_squares(squares: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Centres [N, 2] (column, row, -1 to 1) and sides [N] of views from the lesion (0) to the picture (1).

    Args:
        squares: [N, 3], as an album has them.
        share: [N], 0 to 1.
    """
    lesion = (1.4 * squares[:, 2]).clamp(0.3, 1.0)
    sides = torch.exp(torch.log(lesion) * (1 - share))
    centres = 2 * squares[:, [1, 0]] - 1
    room = (1 - sides).clamp_min(0)[:, None]
    kept = torch.maximum(torch.minimum(centres, room), -room)
    return centres + (kept - centres) * share[:, None], sides


def random_border() -> str:
    """What lies outside of pictures, at random; the same for a whole batch."""
    return ("reflection", "zeros", "border")[int(torch.multinomial(torch.tensor([0.45, 0.3, 0.25]), 1))]


class WeightedSampler:
    """Indices of an epoch's batches, drawn by chances that may change during training.

    Args:
        chances: [N], any positive numbers.
        batch_size: Images in a batch.
    """

    def __init__(self, chances: Tensor, batch_size: int) -> None:
        self.chances, self.batch_size = chances, batch_size

    def __len__(self) -> int:
        return max(len(self.chances) // self.batch_size, 1)

    def __iter__(self) -> Iterator[Tensor]:
        count = min(self.batch_size, len(self.chances))
        for _ in range(len(self)):
            yield torch.multinomial(self.chances, count)
