"""Pictures of some diagnoses in memory, and batches in which all diagnoses are equally frequent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dermbatch.errors import UsageError
from lesionnets.data.sources.isic import Sample, read_image

MARGIN = 9 / 8
"""Side of pictures in memory as a multiple of what is cut out of them."""


def load_classes(samples: Sequence[Sample], classes: Sequence[str], size: int) -> tuple[Tensor, Tensor]:
    """Read whole pictures of these diagnoses, squashed to squares.

    Returns:
        Uint8 [N, 3, size, size], and int64 [N]: the index of the diagnosis.

    Raises:
        UsageError: If a diagnosis has no picture, or a file cannot be read.
    """
    chosen = [sample for sample in samples if sample.diagnosis in classes]
    labels = [classes.index(str(sample.diagnosis)) for sample in chosen]
    missing = sorted(set(classes) - {str(sample.diagnosis) for sample in chosen})
    if missing:
        raise UsageError(
            f"there are no training pictures of {', '.join(missing)}; add some, or leave the diagnosis out"
        )
    pictures = np.stack([read_image(sample.image, size) for sample in chosen])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def squares(pictures: Tensor) -> Tensor:
    """Mirror each picture and turn it by right angles at random: [N, 3, S, S] -> the same."""
    for dims in ((2,), (3,)):
        mirrored = torch.rand(len(pictures), device=pictures.device) < 0.5
        pictures = torch.where(mirrored[:, None, None, None], pictures.flip(dims), pictures)
    turned = torch.rand(len(pictures), device=pictures.device) < 0.5
    return torch.where(turned[:, None, None, None], pictures.transpose(2, 3), pictures)


class ByClass:
    """Batches with as many pictures of each class, drawn at random, cut, mirrored and turned.

    Args:
        pictures: As :func:`load_classes` returns them, with :data:`MARGIN` times the size.
        labels: As :func:`load_classes` returns them.
        size: Side in pixels of what is cut out.
        each: Number of pictures of each class in a batch.
        steps: Batches in an epoch.
    """

    def __init__(self, pictures: Tensor, labels: Tensor, size: int, *, each: int, steps: int) -> None:
        self.pictures, self.size, self.each, self.steps = pictures, size, each, steps
        self.rows = [torch.nonzero(labels == label)[:, 0] for label in range(int(labels.max()) + 1)]

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        labels = torch.arange(len(self.rows)).repeat_interleave(self.each)
        for _ in range(self.steps):
            rows = torch.cat([of[torch.randint(len(of), (self.each,))] for of in self.rows])
            yield squares(self._cut(self.pictures[rows])), labels

    def _cut(self, pictures: Tensor) -> Tensor:
        room = pictures.shape[-1] - self.size + 1
        places = torch.randint(room, (len(pictures), 2)).tolist()
        size = self.size
        return torch.stack(
            [
                picture[:, row : row + size, column : column + size]
                for picture, (row, column) in zip(pictures, places, strict=True)
            ]
        )
