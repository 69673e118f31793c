"""Super-resolution of a crop of any size without seams: by strips along what is needed, or by equal tiles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dermbatch.images.fitting import halved
from dermbatch.models.contracts import SCALE
from dermbatch.models.served import ServedModel
from dermbatch.records.outcome import BoundingBox
from workers.inference.protocol import Inference

Image = NDArray[np.uint8]

_REACH = 2  # pixels of the source to which resampling what came out reaches
_REQUEST = 24_000  # pixels that come out of a processor in the time that one more request costs
_THINNEST = 16  # pixels of a strip below which what it shares with neighbours outweighs it in any case


@dataclass(frozen=True)
class TileSpan:
    """One tile along one axis, in pixels of the image.

    Attributes:
        start: First pixel of the tile.
        size: Its pixels; may reach beyond the image's end.
        first: First pixel that is taken from it.
        last: One past the last pixel that is taken from it.
    """

    start: int
    size: int
    first: int
    last: int


def around(first: int, last: int, limit: int, overlap: int, grid: int = 1) -> TileSpan:
    """A tile that takes ``first <= i < last`` and reaches half an overlap beyond, as far as the image does.

    It begins at a multiple of the grid, which may be a little before.
    """
    start = max(0, first - overlap // 2)
    start -= start % grid
    return TileSpan(start, min(limit, last + overlap // 2) - start, first, last)


def strips(
    needed: NDArray[np.bool_],
    box: BoundingBox,
    limits: tuple[int, int],
    tile: int,
    overlap: int,
    *,
    scale: int = SCALE,
    grid: int = 1,
) -> Iterator[tuple[TileSpan, TileSpan]]:
    """Cover what is needed with strips of rows, each as wide as needed; distant parts get separate strips.

    Thin strips follow an outline closely, and share more with their neighbours: of all equal heights up to the
    tile's, the cheapest by pixels and requests is taken.

    Args:
        needed: [h, w] bool, of the box's size.
        box: What it covers of the image.
        limits: Height and width of the image.
        tile: Most rows of a strip, with what it shares.
        overlap: Pixels that neighbouring strips share.
        scale: How many times larger they come out, on each side: the fewer, the less a pixel costs.
        grid: They begin at multiples of so many pixels of the image.

    Yields:
        Rows and columns of each, in pixels of the image.
    """
    near = cv2.dilate(needed.astype(np.uint8), np.ones((2 * _REACH + 1, 2 * _REACH + 1), np.uint8)).astype(bool)
    rows = np.flatnonzero(near.any(axis=1))
    if not len(rows):
        return
    near = near[rows[0] : rows[-1] + 1]
    tile -= grid - 1
    cuts = _cuts(near, min(overlap, tile // 2), tile, _REQUEST // scale**2)
    for top, bottom in itertools.pairwise(cuts):
        for left, right in _runs(near[top:bottom].any(axis=0), overlap):
            yield (
                around(box.top + rows[0] + top, box.top + rows[0] + bottom, limits[0], overlap, grid),
                around(box.left + left, box.left + right, limits[1], overlap, grid),
            )


def _cuts(near: NDArray[np.bool_], overlap: int, tile: int, request: int) -> list[int]:
    """First rows of the cheapest strips, and the end of the last; a request costs as much as so many pixels."""
    height, width = near.shape
    lefts = np.where(near.any(axis=1), near.argmax(axis=1), width)
    rights = np.where(near.any(axis=1), width - near[:, ::-1].argmax(axis=1), 0)
    fewest = math.ceil(height / (tile - overlap))
    best, cheapest = [0, height], math.inf
    for count in range(fewest, max(fewest, height // _THINNEST) + 1):
        cuts = [round(n * height / count) for n in range(count + 1)]
        wide = np.maximum.reduceat(rights, cuts[:-1]) - np.minimum.reduceat(lefts, cuts[:-1])
        cost = float(((np.diff(cuts) + overlap) * (np.maximum(wide, 0) + overlap) + request).sum())
        if cost < cheapest:
            best, cheapest = cuts, cost
    return best


def _runs(needed: NDArray[np.bool_], gap: int) -> Iterator[tuple[int, int]]:
    """Where there is something along one axis: first and one past the last, bridging narrow gaps."""
    where = np.flatnonzero(needed)
    if not len(where):
        return
    ends = np.flatnonzero(np.diff(where) > gap)
    for first, last in itertools.pairwise([0, *(ends + 1), len(where)]):
        yield int(where[first]), int(where[last - 1]) + 1


def spans(begin: int, end: int, limit: int, tile: int, overlap: int, grid: int = 1) -> list[TileSpan]:
    """Cover ``begin <= i < end`` by tiles, evenly spaced and within the image as far as they can be.

    Tiles may reach outside what is to be covered: what the image has there is better than padding. Between
    neighbours the cut is in the middle of what they share, farthest from both their edges.

    Args:
        begin: First pixel to cover.
        end: One past the last.
        limit: The image's size along the axis.
        tile: The tile's size; may exceed the image's.
        overlap: Least number of pixels that neighbours share.
        grid: Tiles begin at multiples of so many pixels; their size is one, too.
    """
    if grid > 1:
        half = -(-(overlap // 2) // grid)
        coarse = spans(begin // grid, -(-end // grid), -(-limit // grid), tile // grid, 2 * half)
        return [
            TileSpan(grid * one.start, tile, max(begin, grid * one.first), min(end, grid * one.last))
            for one in coarse
        ]
    length, overlap = end - begin, min(overlap, tile // 2)
    count = 1 if length <= tile else math.ceil((length - overlap) / (tile - overlap))
    if count == 1:
        starts = [begin - (tile - length) // 2]
    else:
        starts = [begin + round(n * (length - tile) / (count - 1)) for n in range(count)]
    starts = [max(0, min(start, limit - tile)) for start in starts]
    cuts = [begin, *((left + tile + right) // 2 for left, right in itertools.pairwise(starts)), end]
    return [
        TileSpan(start, tile, first, last)
        for start, (first, last) in zip(starts, itertools.pairwise(cuts), strict=True)
    ]


def super_resolve(
    image: Image,
    box: BoundingBox,
    needed: NDArray[np.bool_],
    client: Inference,
    model: ServedModel,
    *,
    scale: int,
    tile: int,
    overlap: int,
    grid: int = 1,
    halvings: int = 0,
) -> Image:
    """Super-resolve the part of an image in a box.

    Args:
        image: [H, W, 3] uint8 RGB.
        box: The part.
        needed: [h, w] bool, of the box's size: what has none of it near is left out (black).
        client: What runs the models.
        model: An enhance model; of which H and W are fixed, they are its tiles' size.
        scale: The model's scale.
        tile: Most rows of a strip where the model takes any size.
        overlap: Pixels that neighbours share.
        grid: Multiples of so many pixels at which strips and tiles must begin.
        halvings: How often to halve the outcome; ``scale`` must be a multiple of two to that.

    Returns:
        [n h, n w, 3] uint8 RGB, n being ``scale / 2 ** halvings``.
    """
    places = list(_places(image, box, needed, model, scale=scale, tile=tile, overlap=overlap, grid=grid))
    answers = client.infer_many(
        model, [{"IMAGE": _cut(image, row, column)} for row, column in places], ("ENHANCED",)
    )
    final = scale >> halvings
    enlarged = np.zeros((final * (box.bottom - box.top), final * (box.right - box.left), 3), np.uint8)
    for (row, column), answer in zip(places, answers, strict=True):
        detailed = model.checked("ENHANCED", answer["ENHANCED"], (scale * row.size, scale * column.size, 3))
        part = detailed[_scaled(row, row.start, scale), _scaled(column, column.start, scale)]
        # Halved tile by tile, since a picture of 50 MB costs more to fill than to compute.
        for _ in range(halvings):
            part = halved(part)
        enlarged[_scaled(row, box.top, final), _scaled(column, box.left, final)] = part
    return enlarged


def _places(
    image: Image,
    box: BoundingBox,
    needed: NDArray[np.bool_],
    model: ServedModel,
    *,
    scale: int,
    tile: int,
    overlap: int,
    grid: int,
) -> Iterator[tuple[TileSpan, TileSpan]]:
    height, width = image.shape[:2]
    tall, wide = model.image_size
    if tall <= 0 or wide <= 0:
        yield from strips(needed, box, (height, width), tile, overlap, scale=scale, grid=grid)
        return
    for row in spans(box.top, box.bottom, height, tall, overlap, grid):
        for column in spans(box.left, box.right, width, wide, overlap, grid):
            if _any_near(needed, box, row, column):
                yield row, column


def _any_near(needed: NDArray[np.bool_], box: BoundingBox, row: TileSpan, column: TileSpan) -> bool:
    """Whether anything is needed in the taken part of a tile, or so near that resampling reaches it."""
    rows = slice(max(0, row.first - box.top - _REACH), row.last - box.top + _REACH)
    columns = slice(max(0, column.first - box.left - _REACH), column.last - box.left + _REACH)
    return bool(needed[rows, columns].any())


def _cut(image: Image, row: TileSpan, column: TileSpan) -> Image:
    """A tile of the image, mirrored at its lower and right edges where the image is smaller than the tile."""
    part = image[row.start : row.start + row.size, column.start : column.start + column.size]
    below, beside = row.size - part.shape[0], column.size - part.shape[1]
    if below or beside:
        part = np.pad(part, ((0, below), (0, beside), (0, 0)), mode="symmetric")
    return np.ascontiguousarray(part)


def _scaled(span: TileSpan, origin: int, scale: int) -> slice:
    return slice(scale * (span.first - origin), scale * (span.last - origin))
