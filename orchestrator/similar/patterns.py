"""Local patterns of a lesion: how its regions look at one resolution and under one light, and which ones match.

After US 2019/0122360 A1, [0062] and [0063]: the lesion's map is brought to a standard resolution and illumination
before it is compared, similarity is that of local patterns and not of the outcome alone, and a pattern counts by
what it contributed to the outcome. No model is run here: a record holds everything needed, the small picture, the
mask and the classifier's saliency, or the classifier's own descriptors (``PATTERNS``) if it gave any.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Plane = npt.NDArray[Any]

SIDE = 128
"""Pixels of the side to which the lesion's square is scaled: the standard resolution. Few pictures state
millimetres."""

REGION, STEP = 32, 16
"""Side of a region, and from one to the next, in pixels of that square: neighbours overlap by half."""

_MARGIN = 1.1
_LEAST_LESION = 0.6
_SKIN = np.array((200.0, 165.0, 150.0), np.float32)
"""What the skin around a lesion is made to look like, sRGB: the standard illumination."""
_GAIN = (0.5, 2.0)
_RING = (0.1, 0.5)
"""How far from the lesion skin is looked for, in square roots of its area."""
_DARK = 40
"""Brightest channel up to which a pixel is the dark corner of a dermatoscope, not skin."""
_LEAST_SKIN_PIXELS = 50
_EVEN = 0.5
"""Share of a region's weight that it has by being lesion; the rest is its share of the saliency."""

_COLOURS, _TEXTURES = 6, 24
_MEAN = np.array((114.6, 150.0, 146.7, 12.3, 3.5, 3.7), np.float32)
_SPREAD = np.array((28.0, 9.2, 9.3, 6.5, 2.0, 2.0), np.float32)
_COARSE = (1, 2, 4)
_BINS = 8
_TEXTURE_SPREAD = 0.06
_LEARNED = 10.0**0.5
"""Length of learned descriptions: a match falls to 1 / e if their cosine is a tenth lower."""
_BLOCK = 2
"""Rows and columns of a model's places that make up a region."""
_LEAST_WEIGHT = 0.2
"""Weight of a region, relative to an even share, below which it is left out."""
_WIDTH = 1.0
"""Distance of two descriptions at which a match has fallen to exp(-1/2)."""


@dataclass(frozen=True)
class Box:
    """Half-open box in pixels of the image: left, top, right, bottom."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Patterns:
    """The regions of a lesion.

    Attributes:
        boxes: Where each lies in the image.
        described: [R, D] float32: what each looks like, in units in which colour and texture count alike.
        weights: [R] float32, sum 1: what each contributes.
    """

    boxes: tuple[Box, ...]
    described: Floats
    weights: Floats


@dataclass(frozen=True)
class Match:
    """A region of one picture and the one of another that is most like it.

    Attributes:
        region: Region of the picture that was asked about, by its number.
        box: Where it lies there.
        other: Where its like lies in the other picture.
        likeness: 0 to 1, 1 for the same look.
        counted: What it adds to the similarity: likeness times weight.
    """

    region: int
    box: Box
    other: Box
    likeness: float
    counted: float

    def of(self, share: float) -> Match:
        """The same where regions have this share in the similarity; rounded."""
        return replace(self, likeness=round(self.likeness, 4), counted=round(share * self.counted, 4))


def patterns_of(picture: Image, mask: Mask, saliency: Image | None, height: int, width: int) -> Patterns | None:
    """The local patterns of a lesion; none where the mask has none.

    Args:
        picture: uint8 [h, w, 3] RGB: the whole image, reduced.
        mask: uint8 [H', W'] of any size, not 0 where lesion.
        saliency: uint8 of any size over the whole image; regions count by the mask alone without one.
        height: Height of the image itself, in whose pixels boxes are given.
        width: Likewise.
    """
    rows, columns = picture.shape[:2]
    whole = (mask > 0).astype(np.uint8)
    lesion = np.asarray(cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
    found = np.argwhere(lesion > 0)
    if not len(found):
        return None
    square = _square(found)
    light = _under_standard_light(picture, lesion)
    look = _cut(light, square)
    share = _cut(lesion.astype(np.float32), square)
    heat = None if saliency is None else _cut(cv2.resize(saliency, (columns, rows)).astype(np.float32), square)
    corners, described, weights = _described(look, share, heat)
    scale = height / rows, width / columns
    boxes = tuple(_box(corner, square, scale, (height, width)) for corner in corners)
    return Patterns(boxes, described, weights)


def patterns_placed(placed: npt.NDArray[np.floating[Any]], height: int, width: int) -> Patterns | None:
    """The local patterns that a classifier gave itself; none where it gave none at any place.

    Args:
        placed: [h, w, K] over the whole picture (``PATTERNS``): directions say how places look, lengths what they
            count.
        height: Height of the image, in whose pixels boxes are given.
        width: Likewise.
    """
    rows, columns = (side // _BLOCK for side in placed.shape[:2])
    cut = placed[: rows * _BLOCK, : columns * _BLOCK].astype(np.float32)
    lengths = np.linalg.norm(cut, axis=2)
    blocks = (rows, _BLOCK, columns, _BLOCK)
    weights = lengths.reshape(blocks).sum(axis=(1, 3))
    sums = cut.reshape(*blocks, -1).sum(axis=(1, 3))
    total = float(weights.sum())
    if not total > 0:
        return None
    kept = weights >= _LEAST_WEIGHT * total / np.count_nonzero(weights)
    described = sums[kept] / np.maximum(np.linalg.norm(sums[kept], axis=1, keepdims=True), 1e-9)
    boxes = tuple(
        Box(
            round(column * width / columns),
            round(row * height / rows),
            round((column + 1) * width / columns),
            round((row + 1) * height / rows),
        )
        for row, column in np.argwhere(kept).tolist()
    )
    return Patterns(
        boxes,
        np.asarray(_LEARNED * described, np.float32),
        np.asarray(weights[kept] / weights[kept].sum(), np.float32),
    )


def matches(asked: Patterns, other: Patterns, regions: tuple[int, ...] = ()) -> list[Match]:
    """For each region the one of the other picture that is most like it, those that count most first.

    Args:
        asked: Patterns of the picture that is asked about.
        other: Patterns of the other picture.
        regions: Which regions count, by number; all where none are named. Their weights sum to 1.
    """
    rows = list(regions or range(len(asked.boxes)))
    apart = np.square(asked.described[rows, None] - other.described[None]).sum(axis=2)
    best = apart.argmin(axis=1)
    likeness = np.exp(-apart.min(axis=1) / (2 * _WIDTH**2))
    weights = asked.weights[rows] / max(float(asked.weights[rows].sum()), 1e-6)
    counted = likeness * weights
    order = np.argsort(-counted, kind="stable").tolist()
    return [
        Match(rows[at], asked.boxes[rows[at]], other.boxes[best[at]], float(likeness[at]), float(counted[at]))
        for at in order
    ]


def apart(found: list[Match], count: int) -> list[Match]:
    """Those that count most and lie apart in both pictures: regions overlap, and many match the same one."""
    kept: list[Match] = []
    for match in found:
        if len(kept) < count and not any(
            _overlap(match.box, one.box) or _overlap(match.other, one.other) for one in kept
        ):
            kept.append(match)
    return kept


def _overlap(one: Box, other: Box) -> bool:
    """Whether two regions share more than a quarter, as those do that are a step apart."""
    across = min(one.right, other.right) - max(one.left, other.left)
    down = min(one.bottom, other.bottom) - max(one.top, other.top)
    area = (one.right - one.left) * (one.bottom - one.top)
    return across > 0 and down > 0 and across * down > area / 3


def _square(found: npt.NDArray[np.int64]) -> tuple[float, float, float]:
    """Top, left and side of the square around the lesion, in pixels of the picture; it may reach beyond it."""
    (top, left), (bottom, right) = found.min(axis=0), found.max(axis=0) + 1
    side = max(bottom - top, right - left) * _MARGIN
    return (top + bottom - side) / 2, (left + right - side) / 2, float(side)


def _cut(plane: Plane, square: tuple[float, float, float]) -> Plane:
    """A square of a plane at the standard resolution; what lies beyond the plane repeats its edge."""
    top, left, side = square
    scale = side / SIDE
    shift = (scale - 1) / 2
    warp = np.array(((scale, 0, left + shift), (0, scale, top + shift)), np.float64)
    way = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(plane, warp, (SIDE, SIDE), flags=way, borderMode=cv2.BORDER_REPLICATE))


def _under_standard_light(picture: Image, lesion: Mask) -> Image:
    """The picture with the skin around the lesion at one colour (von Kries: a gain for each channel).

    Where hardly any skin is seen, the grey world's colour stands for it (Finlayson and Trezzi, "Shades of Gray and
    Colour Constancy", CIC 2004, with the sixth power).
    """
    unit = float(np.sqrt(lesion.sum()))
    away = cv2.distanceTransform(1 - lesion, cv2.DIST_L2, 3)
    bright = picture.max(axis=2) > _DARK
    skin = picture[(away > _RING[0] * unit) & (away < _RING[1] * unit) & bright].astype(np.float32)
    if len(skin) >= _LEAST_SKIN_PIXELS:
        seen = np.median(skin, axis=0)
    else:
        seen = np.power(np.power(picture.astype(np.float32), 6).mean(axis=(0, 1)), 1 / 6)
    gain = np.clip(_SKIN / np.maximum(seen, 1), *_GAIN)
    return np.asarray(np.clip(picture * gain, 0, 255), np.uint8)


def _described(look: Plane, share: Floats, heat: Floats | None) -> tuple[list[tuple[int, int]], Floats, Floats]:
    """Which regions there are, what each looks like, and what it weighs."""
    inside = _means(share[..., None])[..., 0]
    kept = inside >= min(_LEAST_LESION, inside.max())
    corners = [(int(row) * STEP, int(column) * STEP) for row, column in np.argwhere(kept)]
    weights = inside[kept] / inside[kept].sum()
    seen = None if heat is None else _means(heat[..., None])[..., 0][kept]
    if seen is not None and seen.sum() > 0:
        weights = _EVEN * weights + (1 - _EVEN) * seen / seen.sum()
    return corners, _looks(look)[kept], np.asarray(weights, np.float32)


def _looks(look: Plane) -> Floats:
    """[7, 7, 30]: colour, then texture, of each region, in units in which both count alike."""
    lab = cv2.cvtColor(look, cv2.COLOR_RGB2LAB).astype(np.float32)
    mean = _means(lab)
    spread = np.sqrt(np.maximum(_means(np.square(lab)) - np.square(mean), 0))
    colour = (np.concatenate((mean, spread), axis=2) - _MEAN) / _SPREAD / np.sqrt(_COLOURS)
    texture = np.sqrt(_means(_edges(lab[..., 0]))) / _TEXTURE_SPREAD / np.sqrt(_TEXTURES)
    return np.asarray(np.concatenate((colour, texture), axis=2), np.float32)


def _means(planes: Floats) -> Floats:
    """Means over the regions: [7, 7, C] of [SIDE, SIDE, C]."""
    blocks = SIDE // STEP
    small = planes.reshape(blocks, STEP, blocks, STEP, -1).mean(axis=(1, 3))
    return np.asarray((small[:-1, :-1] + small[1:, :-1] + small[:-1, 1:] + small[1:, 1:]) / 4, np.float32)


def _edges(lightness: Floats) -> Floats:
    """[SIDE, SIDE, 24]: at each of three scales, how strong the edge is in each of eight directions."""
    planes = []
    for sigma in _COARSE:
        smooth = cv2.GaussianBlur(lightness, (0, 0), sigma)
        across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
        strength, angle = cv2.cartToPolar(across, down)
        at = (angle * (_BINS / (2 * np.pi))).astype(np.int32) % _BINS
        planes += [np.minimum(strength * (sigma / 255), 1) * (at == number) for number in range(_BINS)]
    return np.stack(planes, axis=2)


def _box(
    corner: tuple[int, int], square: tuple[float, float, float], scale: tuple[float, float], size: tuple[int, int]
) -> Box:
    top, left, side = square
    rows, columns = (
        [(start + side * edge / SIDE) * factor for edge in (at, at + REGION)]
        for start, at, factor in ((top, corner[0], scale[0]), (left, corner[1], scale[1]))
    )
    height, width = size
    (y0, y1), (x0, x1) = (
        [min(max(0, round(edge)), most) for edge in edges] for edges, most in ((rows, height), (columns, width))
    )
    return Box(x0, y0, x1, y1)
