"""Pairs of clean and covered images: hairs, rulers and ink drawn over dermoscopic images and phantoms.

For hair that an image has itself the truth is not known. Either it is left out of the loss, or the result of the
classical finder is taken for the truth, as in Bisla et al. 2019 (section 3.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage
from torch import Tensor

from dermbatch.phantoms.occlusion import draw_bubbles, draw_hairs, draw_ink, draw_ruler
from dermbatch.phantoms.phantom import phantom
from lesionnets.data.prefetch import epoch_random, prefetched
from lesionnets.data.sources.isic import Sample, read_pair
from lesionnets.occlusions import find_occlusions, remove_occlusions

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Planes = tuple[Tensor, Tensor, Tensor, Tensor]
"""Covered and clean pictures [N, 3, S, S], share covered, share of unknown truth [N, 1, S, S]; float, 0 to 1."""

CROPS = 2
"""Crops of one drawn image, because drawing costs more than the network's step on a crop."""


@dataclass(frozen=True)
class Background:
    """A picture to draw on.

    Attributes:
        image: RGB uint8 [H, W, 3].
        found: Bool [H, W], where something covers it already that was not drawn.
        cleaned: The image without these, the same outside ``found``; None if the truth is not known there.
    """

    image: Image
    found: Mask
    cleaned: Image | None = None


def load_backgrounds(
    samples: Sequence[Sample], *, most_covered: float = 0.08, cleaned: bool = False
) -> list[Background]:
    """Read images with masks, without those of which more than a share is covered already.

    Args:
        samples: Images; those without a mask are skipped.
        most_covered: That share, 0 to 1.
        cleaned: Pair each image with the result of :func:`lesionnets.occlusions.remove_occlusions`, which the
            lesion mask corrects. If not, the finder is set to see more, because all that it finds is left out.
    """
    backgrounds = []
    for sample in samples:
        if sample.mask is None:
            continue
        image, mask = read_pair(sample)
        lesion = mask > 127
        if cleaned:
            without, found = remove_occlusions(image, lesion)
            background = Background(image, found, without)
        else:
            background = Background(image, find_occlusions(image, lesion, threshold=9))
        if background.found.mean() <= most_covered:
            backgrounds.append(background)
    return backgrounds


def phantom_backgrounds(count: int, *, seed: int = 0) -> list[Background]:
    """Clean phantoms of 512 pixels on the short side, for which all of the truth is known."""
    pictures = [phantom(seed + i, height=512, width=640, occlusions=()).clean for i in range(count)]
    return [Background(picture, np.zeros(picture.shape[:2], bool)) for picture in pictures]


def draw_strokes(rgb: Image, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Draw plain dark curves of even width, simpler than the hairs of :mod:`dermbatch.phantoms.occlusion`."""
    height, width = rgb.shape[:2]
    cover = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(2, 25)):
        ends = rng.uniform(-0.1, 1.1, (3, 2)) * [width, height]
        along = np.linspace(0, 1, 20)[:, None]
        curve = (1 - along) ** 2 * ends[0] + 2 * along * (1 - along) * ends[1] + along**2 * ends[2]
        cv2.polylines(cover, [curve.astype(np.int32)], False, (255,), int(rng.integers(1, 5)), cv2.LINE_AA)
    colour = rng.uniform(0, 70) + rng.normal(0, 8, 3)
    share = cover[..., None].astype(np.float32) / 255 * rng.uniform(0.7, 1.0)
    drawn = rgb + (colour - rgb) * share
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8), cover > 10


def cover(clean: Image, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Draw something over a picture, now and then nothing."""
    covered, mask = clean, np.zeros(clean.shape[:2], bool)
    for chance, draw in ((0.15, draw_ink), (0.7, draw_hairs), (0.2, draw_strokes), (0.2, draw_ruler)):
        if rng.random() < chance:
            covered, touched = draw(covered, rng)
            mask = mask | touched
    return covered, mask


def fainter(covered: Image, clean: Image, rng: np.random.Generator) -> Image:
    """Reduce what was drawn to a quarter to two thirds of its contrast, sometimes light instead of dark.

    A purifier misses faint and light hair most, and it is rare among what is drawn.
    """
    share = rng.uniform(0.25, 0.67) * rng.choice([1, -1], p=[0.6, 0.4])
    return np.asarray(cv2.addWeighted(clean, 1 - share, covered, share, 0), dtype=np.uint8)


class OccludedPairs:
    """Batches of crops of newly covered images; see :data:`Planes`.

    Args:
        backgrounds: Pictures to draw on.
        crop: Side of the crops in pixels.
        batch_size: Crops in a batch.
        steps: Batches in an epoch.
    """

    def __init__(self, backgrounds: Sequence[Background], *, crop: int, batch_size: int, steps: int) -> None:
        self._backgrounds, self._crop = backgrounds, crop
        self._batch_size, self._steps = batch_size, steps

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Planes]:
        return prefetched(self._batches(epoch_random()))

    def _batches(self, rng: np.random.Generator) -> Iterator[Planes]:
        for _ in range(self._steps):
            drawn = (self._drawn(rng) for _ in range(self._batch_size // CROPS))
            crops = [self._cut(planes, rng) for planes in drawn for _ in range(CROPS)]
            stacked = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous().float() / 255
            covered, clean, mask, unknown = stacked.split([3, 3, 1, 1], dim=1)  # type: ignore[no-untyped-call]
            yield covered, clean, mask, unknown

    def _drawn(self, rng: np.random.Generator) -> Image:
        """Covered, clean, mask and unknown as one picture [H, W, 8], at the size that the network sees."""
        background = self._backgrounds[rng.integers(len(self._backgrounds))]
        # Other lights and skins: a gain and an offset for each colour.
        gain, offset = rng.normal(1, 0.06, 3) * rng.uniform(0.75, 1.15), rng.normal(0, 5, 3)
        levels = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255).astype(np.uint8)
        bubbles = int(rng.integers(2**32)) if rng.random() < 0.1 else None

        def seen(picture: Image) -> Image:
            picture = np.asarray(cv2.LUT(picture, np.ascontiguousarray(levels[None])), dtype=np.uint8)
            return picture if bubbles is None else draw_bubbles(picture, np.random.default_rng(bubbles)).rgb

        image = seen(background.image)
        covered, mask = cover(image, rng)
        if rng.random() < 0.25:
            covered = fainter(covered, image, rng)
        clean, unknown = image, background.found & ~mask
        if background.cleaned is not None:
            clean, mask, unknown = seen(background.cleaned), mask | background.found, np.zeros_like(mask)
        # Frames are 1:1 to 3:2 and their long side becomes 512, so the short one 341 to 512.
        height, width = mask.shape
        scale = max(rng.uniform(330, 520) / min(height, width), self._crop / min(height, width))
        size = (round(width * scale), round(height * scale))
        planes = (covered, clean, mask.astype(np.uint8) * 255, unknown.astype(np.uint8) * 255)
        resized = [
            np.asarray(PillowImage.fromarray(plane).resize(size, PillowImage.Resampling.BILINEAR))
            for plane in planes
        ]
        return np.dstack(resized)

    def _cut(self, planes: Image, rng: np.random.Generator) -> Image:
        top, left = (rng.integers(side - self._crop + 1) for side in planes.shape[:2])
        crop = planes[top : top + self._crop, left : left + self._crop]
        crop = np.rot90(crop, k=rng.integers(4))
        return np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop)
