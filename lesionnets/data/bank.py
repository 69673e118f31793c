"""What a frozen extractor says of episodes, kept: a processor core that need not ask it again learns fast.

Lesions are kept a picture each, several views of it; things a batch each. A bank lies in one file, which several
trainings share: it holds every diagnosis, and each training takes those that it has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lesionnets.data.batches.episodes import Batch, NaturalEpisodes
from lesionnets.data.batches.in_memory import Album
from lesionnets.data.batches.soft_pairs import SoftPairs
from lesionnets.nets.segment.extractors import Extractor

AT_ONCE = 32


@dataclass(frozen=True)
class Bank:
    """Features of pictures, and their masks.

    Attributes:
        low: Float16 [N, C, h, w].
        high: Float16 [N, D, h / 2, w / 2].
        masks: Uint8 [N, 1, S, S], 0 to 255.
    """

    low: Tensor
    high: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.masks)

    def batch(self, chosen: Tensor, *, generic: bool) -> Batch:
        """Some of them as training takes them."""
        return {
            "low": self.low[chosen].float(),
            "high": self.high[chosen].float(),
            "masks": self.masks[chosen].float() / 255,
            "generic": torch.tensor(float(generic)),
        }


@torch.inference_mode()
def described(extractor: Extractor, batches: Iterator[tuple[Tensor, Tensor]]) -> Bank:
    """A bank of images float [n, 3, S, S] and masks float [n, 1, S, S], 0 to 1."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for images, masks in batches:
        low = extractor.low(images)
        high = extractor.high(low)
        parts.append((low.half().cpu(), high.half().cpu(), (255 * masks).round().to(torch.uint8).cpu()))
    return Bank(*(torch.cat(kind) for kind in zip(*parts, strict=True)))


def skin_views(album: Album, size: int, views: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every lesion as :class:`SoftPairs` augments it, view by view, in the album's order."""
    pairs = SoftPairs(album, size, AT_ONCE, seed=seed, soft=False)
    for _ in range(views):
        for chosen in torch.split(torch.arange(len(album)), AT_ONCE):
            yield pairs.view(album.of(chosen))


def natural_views(episodes: NaturalEpisodes, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """So many batches of things."""
    for _ in range(count):
        batch = episodes.batch()
        yield batch["images"], batch["masks"]


def kept(path: Path, make: Callable[[], Bank]) -> Bank:
    """The bank of a folder; made where it is not there."""
    names = ("low", "high", "masks")
    if not path.is_dir():
        bank, beside = make(), path.with_name(f"{path.name}.part")
        beside.mkdir(parents=True, exist_ok=True)
        for name in names:
            np.save(beside / f"{name}.npy", getattr(bank, name).numpy())
        beside.replace(path)
    return Bank(*(torch.from_numpy(np.load(path / f"{name}.npy", mmap_mode="c")) for name in names))


@dataclass(frozen=True)
class SkinBank:
    """Lesions of one diagnosis a batch.

    Attributes:
        bank: Views of all lesions, in their order.
        rows: For each diagnosis that is seen, the rows of the bank.
        batch_size: Pictures a batch.
    """

    bank: Bank
    rows: Sequence[Tensor]
    batch_size: int

    def batch(self) -> Batch:
        """One batch: diagnoses come by the square root of their pictures."""
        chances = torch.tensor([float(len(rows)) for rows in self.rows]).sqrt()
        rows = self.rows[int(torch.multinomial(chances, 1))]
        return self.bank.batch(rows[torch.randint(len(rows), (self.batch_size,))], generic=False)


@dataclass(frozen=True)
class NaturalBank:
    """Things of one class a batch, as they were drawn."""

    bank: Bank
    batch_size: int

    def batch(self) -> Batch:
        """One batch, in random order."""
        first = int(torch.randint(len(self.bank) // self.batch_size, ())) * self.batch_size
        return self.bank.batch(first + torch.randperm(self.batch_size), generic=True)
