"""Stored outputs of a frozen extractor, so that training on a processor core need not run it again.

Lesions are stored by picture in several views, things by batch. Several trainings share a bank: it holds every
diagnosis, and each training takes those that it may see. A classifier's bank (:class:`LevelBank`) holds maps of
several sizes instead, with the views of a picture next to each other.
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
class FeatureBank:
    """Features of pictures, with their masks.

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
        """A batch of some pictures, as training takes it."""
        return {
            "low": self.low[chosen].float(),
            "high": self.high[chosen].float(),
            "masks": self.masks[chosen].float() / 255,
            "generic": torch.tensor(float(generic)),
        }


@torch.inference_mode()
def described(extractor: Extractor, batches: Iterator[tuple[Tensor, Tensor]]) -> FeatureBank:
    """Make a bank of images float [n, 3, S, S] and masks float [n, 1, S, S], 0 to 1."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for images, masks in batches:
        low = extractor.low(images)
        high = extractor.high(low)
        parts.append((low.half().cpu(), high.half().cpu(), (255 * masks).round().to(torch.uint8).cpu()))
    return FeatureBank(*(torch.cat(kind) for kind in zip(*parts, strict=True)))


def skin_views(album: Album, size: int, views: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All lesions as :class:`SoftPairs` augments them, view by view, in the album's order."""
    pairs = SoftPairs(album, size, AT_ONCE, seed=seed, soft=False)
    for _ in range(views):
        for chosen in torch.split(torch.arange(len(album)), AT_ONCE):
            yield pairs.view(album.of(chosen))


def natural_views(episodes: NaturalEpisodes, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """``count`` batches of things."""
    for _ in range(count):
        batch = episodes.batch()
        yield batch["images"], batch["masks"]


def kept(path: Path, make: Callable[[], FeatureBank]) -> FeatureBank:
    """The bank of a folder, created if missing."""
    names = ("low", "high", "masks")
    if not path.is_dir():
        bank, beside = make(), path.with_name(f"{path.name}.part")
        beside.mkdir(parents=True, exist_ok=True)
        for name in names:
            np.save(beside / f"{name}.npy", getattr(bank, name).numpy())
        beside.replace(path)
    return FeatureBank(*(_mapped(path / f"{name}.npy") for name in names))


def _mapped(path: Path) -> Tensor:
    """A tensor of an array in a file, read on demand."""
    return torch.from_numpy(np.load(path, mmap_mode="c"))


@dataclass(frozen=True)
class SkinBank:
    """Batches of lesions, each of one diagnosis.

    Attributes:
        bank: Views of all lesions, in their order.
        rows: The bank's rows of each diagnosis that is seen.
        batch_size: Pictures in a batch.
    """

    bank: FeatureBank
    rows: Sequence[Tensor]
    batch_size: int

    def batch(self) -> Batch:
        """One batch; a diagnosis is chosen in proportion to the square root of its number of pictures."""
        chances = torch.tensor([float(len(rows)) for rows in self.rows]).sqrt()
        rows = self.rows[int(torch.multinomial(chances, 1))]
        return self.bank.batch(rows[torch.randint(len(rows), (self.batch_size,))], generic=False)


@dataclass(frozen=True)
class NaturalBank:
    """Batches of things, each of one class, as they were drawn."""

    bank: FeatureBank
    batch_size: int

    def batch(self) -> Batch:
        """One batch, in random order."""
        first = int(torch.randint(len(self.bank) // self.batch_size, ())) * self.batch_size
        return self.bank.batch(first + torch.randperm(self.batch_size), generic=True)


@dataclass(frozen=True)
class LevelBank:
    """Maps of pictures at several levels of an encoder.

    Attributes:
        levels: Float16 [N, views, C, h, w] each.
        masks: Uint8 [N, views, 1, S, S], 0 to 255.
    """

    levels: tuple[Tensor, ...]
    masks: Tensor

    def of(self, pictures: Tensor, views: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Levels float [n, C, h, w] and masks float [n, 1, S, S], 0 to 1, of one view of each of n pictures."""
        # A mapped file is read one place at a time.
        return tuple(level[pictures, views].float() for level in self.levels), self.masks[
            pictures, views
        ].float() / 255


Looking = Callable[[Tensor], Sequence[Tensor]]
"""A function from images float [n, 3, S, S], 0 to 1, to an encoder's levels."""


@torch.no_grad()
def kept_levels(
    path: Path, look: Looking, batches: Iterator[tuple[Tensor, Tensor]], *, pictures: int, views: int, side: int
) -> LevelBank:
    """Read the bank of a folder, creating it if missing, batch by batch, because it may be larger than memory.

    Args:
        path: The folder.
        look: The encoder.
        batches: Images float [n, 3, S, S] and masks float [n, 1, S, S], 0 to 1, view by view of all pictures.
        pictures: Number of pictures.
        views: Number of views of each picture.
        side: Side to which masks are reduced; a divisor of S.
    """
    if not path.is_dir():
        beside = path.with_name(f"{path.name}.part")
        beside.mkdir(parents=True, exist_ok=True)
        _write_levels(beside, look, batches, pictures=pictures, views=views, side=side)
        beside.replace(path)
    count = len(list(path.glob("level-*.npy")))
    return LevelBank(
        tuple(_mapped(path / f"level-{number}.npy") for number in range(count)), _mapped(path / "masks.npy")
    )


def _write_levels(
    folder: Path, look: Looking, batches: Iterator[tuple[Tensor, Tensor]], *, pictures: int, views: int, side: int
) -> None:
    files: list[np.memmap[tuple[int, ...], np.dtype[np.float16]]] = []
    masks = np.zeros((pictures, views, 1, side, side), np.uint8)
    start = 0
    for images, drawn in batches:
        view, row = divmod(start, pictures)
        rows = slice(row, row + len(images))
        levels = [level.half().cpu().numpy() for level in look(images)]
        for number, level in enumerate(levels):
            if number == len(files):
                shape = (pictures, views, *level.shape[1:])
                name = folder / f"level-{number}.npy"
                files.append(np.lib.format.open_memmap(name, "w+", np.float16, shape))  # type: ignore[no-untyped-call]
            files[number][rows, view] = level
        small = torch.nn.functional.adaptive_avg_pool2d(drawn, side)
        masks[rows, view] = (255 * small).round().to(torch.uint8).cpu().numpy()
        start += len(images)
    for file in files:
        file.flush()
    np.save(folder / "masks.npy", masks)
