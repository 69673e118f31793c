"""Super-resolution of a crop of any size by tiles of one size, without seams."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dermbatch.images.fitting import halved
from dermbatch.models.served import ServedModel
from dermbatch.records.outcome import BoundingBox
from workers.triton.client import TritonClient

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in pixels of the image.

    Attributes:
        start: First pixel of the tile.
        first: First pixel that is taken from it.
        last: One past the last pixel that is taken from it.
    """

    start: int
    first: int
    last: int


def spans(begin: int, end: int, limit: int, tile: int, overlap: int) -> list[Span]:
    """Cover ``begin <= i < end`` by tiles, evenly spaced and within the image as far as they can be.

    Tiles may reach outside what is to be covered: what the image has there is better than padding. Between
    neighbours the cut is in the middle of what they share, farthest from both their edges.

    Args:
        begin: First pixel to cover.
        end: One past the last.
        limit: The image's size along the axis.
        tile: The tile's size; may exceed the image's.
        overlap: Least number of pixels that neighbours share.
    """
    length, overlap = end - begin, min(overlap, tile // 2)
    count = 1 if length <= tile else math.ceil((length - overlap) / (tile - overlap))
    if count == 1:
        starts = [begin - (tile - length) // 2]
    else:
        starts = [begin + round(n * (length - tile) / (count - 1)) for n in range(count)]
    starts = [max(0, min(start, limit - tile)) for start in starts]
    cuts = [begin, *((left + tile + right) // 2 for left, right in itertools.pairwise(starts)), end]
    return [
        Span(start, first, last) for start, (first, last) in zip(starts, itertools.pairwise(cuts), strict=True)
    ]


def super_resolve(
    image: Image,
    box: BoundingBox,
    needed: NDArray[np.bool_],
    client: TritonClient,
    model: ServedModel,
    *,
    scale: int,
    tile: int,
    overlap: int,
    halvings: int = 0,
) -> Image:
    """Super-resolve the part of an image in a box.

    Args:
        image: [H, W, 3] uint8 RGB.
        box: The part.
        needed: [h, w] bool, of the box's size: tiles without any of it are left out (black).
        client: Triton.
        model: An enhance model; its own H and W are the tile's size where they are fixed.
        scale: The model's scale.
        tile: The tile's size where the model takes any.
        overlap: Pixels that neighbouring tiles share.
        halvings: How often to halve the outcome; ``scale`` must be a multiple of two to that.

    Returns:
        [n h, n w, 3] uint8 RGB, n being ``scale / 2 ** halvings``.
    """
    height, width = image.shape[:2]
    fixed_height, fixed_width = model.image_size
    tall = fixed_height if fixed_height > 0 else min(tile, box.bottom - box.top)
    wide = fixed_width if fixed_width > 0 else min(tile, box.right - box.left)
    places = [
        (row, column)
        for row in spans(box.top, box.bottom, height, tall, overlap)
        for column in spans(box.left, box.right, width, wide, overlap)
        if _any_near(needed, box, row, column)
    ]
    answers = client.infer_many(
        model,
        [{"IMAGE": _cut(image, row.start, column.start, tall, wide)} for row, column in places],
        ("ENHANCED",),
    )
    final = scale >> halvings
    enlarged = np.zeros((final * (box.bottom - box.top), final * (box.right - box.left), 3), np.uint8)
    for (row, column), answer in zip(places, answers, strict=True):
        detailed = model.checked("ENHANCED", answer["ENHANCED"], (scale * tall, scale * wide, 3))
        part = detailed[_scaled(row, row.start, scale), _scaled(column, column.start, scale)]
        # Halved tile by tile, since a picture of 50 MB costs more to fill than to compute.
        for _ in range(halvings):
            part = halved(part)
        enlarged[_scaled(row, box.top, final), _scaled(column, box.left, final)] = part
    return enlarged


def _any_near(needed: NDArray[np.bool_], box: BoundingBox, row: Span, column: Span) -> bool:
    """Whether anything is needed in the taken part of a tile, or so near that resampling reaches it."""
    rows = slice(max(0, row.first - box.top - 2), row.last - box.top + 2)
    columns = slice(max(0, column.first - box.left - 2), column.last - box.left + 2)
    return bool(needed[rows, columns].any())


def _cut(image: Image, top: int, left: int, tall: int, wide: int) -> Image:
    """A tile of the image, mirrored at its lower and right edges where the image is smaller than the tile."""
    part = image[top : top + tall, left : left + wide]
    below, beside = tall - part.shape[0], wide - part.shape[1]
    if below or beside:
        part = np.pad(part, ((0, below), (0, beside), (0, 0)), mode="symmetric")
    return np.ascontiguousarray(part)


def _scaled(span: Span, origin: int, scale: int) -> slice:
    return slice(scale * (span.first - origin), scale * (span.last - origin))
