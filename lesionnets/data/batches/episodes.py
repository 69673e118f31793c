"""Episodes for few-shot learning: pictures of one class, each the support of the one before.

A batch of B pictures makes B episodes with B passes: the prototypes of picture i + 1 segment picture i.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from lesionnets.data import looks
from lesionnets.data.batches.in_memory import Album, affine, cut
from lesionnets.data.batches.soft_pairs import SoftPairs
from lesionnets.data.grounds import grounds
from lesionnets.data.sources.natural import Things

Domain = Literal["specific", "generic"]
Batch = dict[str, Tensor]
"""``images`` float [B, 3, S, S] (or ``low`` and ``high``, features of them), ``masks`` float [B, 1, S, S], all of
one class; ``generic``, [], 1 or 0."""

STILL_SAME = 0.5
"""Share of natural episodes that show one thing repeatedly, in other places, sizes and colours."""


class SkinEpisodes:
    """Batches of lesions of one diagnosis, as :class:`SoftPairs` augments them.

    Args:
        album: An album whose images all have masks.
        classes: Int64 [N], the diagnosis of each image.
        size: Side of the output in pixels.
        batch_size: Pictures in a batch.
        seed: Seed of the hairs.
    """

    def __init__(self, album: Album, classes: Tensor, size: int, batch_size: int, seed: int = 0) -> None:
        self.album, self.classes, self.batch_size = album, classes, batch_size
        self.pairs = SoftPairs(album, size, batch_size, seed=seed, soft=False)
        counts = torch.bincount(classes).float()
        self.chances = counts.sqrt() / counts.sqrt().sum()

    def batch(self) -> Batch:
        """One batch; a diagnosis is chosen in proportion to the square root of its number of pictures."""
        chosen = torch.nonzero(self.classes == torch.multinomial(self.chances, 1)).flatten()
        places = torch.randint(len(chosen), (self.batch_size,))
        images, masks = self.pairs.view(self.album.of(chosen[places]))
        return {"images": images, "masks": masks, "generic": torch.zeros(())}


class NaturalEpisodes:
    """Batches of things of one class; drawings lie on backgrounds, next to a thing of another class.

    Args:
        things: Things of the natural domain.
        size: Side of the output in pixels.
        batch_size: Pictures in a batch.
    """

    def __init__(self, things: Things, size: int, batch_size: int) -> None:
        self.things, self.size, self.batch_size = things, size, batch_size
        self.many = torch.nonzero(torch.bincount(things.classes) > 1).flatten()

    def batch(self) -> Batch:
        """One batch: one thing seen repeatedly, or several of a class."""
        things, count = self.things, self.batch_size
        if not len(self.many) or torch.rand(()) < STILL_SAME:
            chosen = torch.randint(len(things.classes), (1,)).expand(count)
        else:
            members = torch.nonzero(things.classes == self.many[torch.randint(len(self.many), ())]).flatten()
            chosen = members[torch.randint(len(members), (count,))]
        images, masks = placed(things.pictures[chosen], self.size, 0.35, 0.9)
        if things.drawn:
            others = torch.randint(len(things.classes), (count,))
            beside, covered = placed(things.pictures[others], self.size, 0.2, 0.6)
            covered = (
                covered
                * (torch.rand(count, 1, 1, 1) < 0.6)
                * (things.classes[others] != things.classes[chosen])[:, None, None, None]
            )
            ground = grounds(count, self.size)
            ground = ground + covered * (beside - ground)
            # Faint things, too: what a support shows need not be dark.
            clear = 0.35 + 0.65 * torch.rand(count, 1, 1, 1).sqrt()
            images = ground + clear * masks * (images - ground)
        return {"images": looks.relit(images.clamp(0, 1)), "masks": masks, "generic": torch.ones(())}


def placed(pictures: Tensor, size: int, least: float, most: float) -> tuple[Tensor, Tensor]:
    """Turn, mirror, move and reduce pictures at random: float [N, 3, S, S] and masks [N, 1, S, S], 0 to 1.

    Args:
        pictures: Uint8 [N, 4, s, s].
        size: Side of the output in pixels.
        least: Least side of a thing, as a share of the picture's.
        most: Largest side of a thing, as a share of the picture's.
    """
    count = len(pictures)
    share = least + (most - least) * torch.rand(count)
    centres = (2 * torch.rand(count, 2) - 1) * (1 / share - 1)[:, None]
    squash = 0.85 + 0.3 * torch.rand(count, 2)
    mirror = 1 - 2 * (torch.rand(count) < 0.5).float()
    turned = affine(centres, 1 / share, angle=0.6 * torch.randn(count), squash=squash, mirror=mirror)
    none = torch.zeros(count, 3)
    album = Album(pictures[:, :3], pictures[:, 3:], none, none[:, 0].long(), none[:, 0].long())
    return cut(album, turned, size, "border")


class Episodes(Protocol):
    """A source of batches."""

    def batch(self) -> Batch:
        """One batch of pictures of one class."""


@dataclass(frozen=True)
class Alternate:
    """Specific and generic learning in turns, epoch by epoch (Wang et al., algorithm 1); either may be missing.

    Attributes:
        specific: Source of batches of lesions.
        generic: Source of batches of things.
        steps: Number of batches of each part in an epoch.
    """

    specific: Episodes | None
    generic: Episodes | None
    steps: int

    def __len__(self) -> int:
        return self.steps * sum(part is not None for part in (self.specific, self.generic))

    def __iter__(self) -> Iterator[Batch]:
        for part in (self.specific, self.generic):
            if part is not None:
                for _ in range(self.steps):
                    yield part.batch()
