"""Layers of hair and other things that can be laid over any picture, drawn or lifted from real pictures.

A layer is linear in what lies beneath it: ``over = through x under + own``, for each colour. So one layer, which
takes a tenth of a second to make, can be laid over any number of pictures, turned, enlarged, paler or darker, in a
few operations on whole batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.phantoms.occlusion import Drawn, draw_hairs, draw_ink, draw_ruler
from lesionnets.occlusions import find_occlusions

Image = npt.NDArray[np.uint8]
Random = np.random.Generator
Floats = npt.NDArray[np.floating[Any]]
Draw = Callable[[Image, Random], Drawn]

POINTS = 48
"""Number of points of a hair's course."""

FINE = 3
"""Sub-pixels on each side of a pixel when hairs are drawn, because fine ones are thinner than a pixel."""

LIFTED_FROM = 18
"""Least brightening by the finder's closing, of 255, at which hair is lifted; anything fainter may be skin."""

LEAST_ALPHA = 0.04
"""Least share that is drawn: nobody could see less, and it would still be labelled hair."""


@dataclass(frozen=True)
class Layer:
    """Something that covers a picture.

    Attributes:
        through: Share of the light from beneath that passes, x 255; uint8 [H, W, 3].
        own: Light of the layer itself, uint8 [H, W, 3].
    """

    through: Image
    own: Image

    def over(self, under: Image) -> Image:
        """Lay it over a picture of the same size."""
        light = under.astype(np.float32) * self.through / 255 + self.own
        return np.asarray(np.clip(light + 0.5, 0, 255), np.uint8)


def drawn_layer(draw: Draw, side: int, seed: tuple[int, ...]) -> Layer:
    """The layer drawn by a function of :mod:`dermbatch.phantoms.occlusion`, from its result on black and white."""
    on_black, on_white = (
        draw(np.full((side, side, 3), level, np.uint8), np.random.default_rng(seed)).rgb for level in (0, 255)
    )
    return Layer(np.asarray(np.clip(on_white.astype(np.int16) - on_black, 0, 255), np.uint8), on_black)


def hair_layer(side: int, random: Random) -> Layer:
    """One person's hair, as dermatoscopes show it.

    Long, downy, curled or shaved hair, or bundles of it; black to white, opaque to clear, with a lighter core or a
    gleam along one side; sharp, out of focus, or both at once.
    """
    kind = random.choice(5, p=[0.42, 0.2, 0.12, 0.14, 0.12])
    courses, half = (_long, _down, _curled, _stubble, _bundles)[kind](side, random)
    colour, opacity, gleam = _colours(random)
    opacity = opacity * (random.uniform(0.4, 0.9) if kind == 1 else 1.0)
    alpha: Floats = np.zeros((side, side), np.float32)
    light: Floats = np.zeros((side, side, 3), np.float32)
    blurred = random.random(len(courses)) < random.choice([0.0, 0.3, 0.7], p=[0.5, 0.3, 0.2])
    for far in (True, False):
        chosen = np.flatnonzero(blurred == far)
        if len(chosen):
            strands = [(courses[i], half[i]) for i in chosen]
            sheet, tone = _sheet(strands, side, colour, opacity, gleam, random)
            sigma = side / 512 * (random.uniform(0.8, 2.2) if far else random.uniform(0.25, 0.9))
            cover: Any = cv2.GaussianBlur(sheet, (0, 0), sigma)
            glow: Any = cv2.GaussianBlur(tone * sheet[..., None], (0, 0), sigma)
            alpha, light = alpha + (1 - alpha) * cover, light * (1 - cover[..., None]) + glow
    seen = alpha >= LEAST_ALPHA
    through = np.where(seen, 1 - alpha, 1)[..., None].repeat(3, axis=2)
    return Layer(_bytes(through * 255), _bytes(light * seen[..., None]))


def lifted_layer(image: Image, lesion: npt.NDArray[np.bool_] | None, *, light: bool = False) -> Layer:
    """Lift the hair of a real picture by the classical finder, with its share of cover.

    What lies beneath is painted from the edges of what was found, grown by two pixels. The hair's colour is that
    of its darkest pixels. The share of cover is how far a pixel is from the former towards the latter.

    Args:
        image: RGB uint8 [H, W, 3].
        lesion: Bool [H, W], which corrects the finder; None without a mask.
        light: Lift light hair instead of dark.
    """
    pictured = np.asarray(255 - image if light else image, np.uint8)
    found = find_occlusions(pictured, lesion, threshold=LIFTED_FROM).astype(np.uint8)
    grown = cv2.dilate(found, np.ones((5, 5), np.uint8))
    under = cv2.inpaint(image, grown, 5, cv2.INPAINT_TELEA).astype(np.float32)
    seen = image.astype(np.float32)
    if not found.any():
        return Layer(np.full_like(image, 255), np.zeros_like(image))
    colour = np.percentile(image[found > 0], 97 if light else 3, axis=0)
    towards = colour - under
    share = ((seen - under) * towards).sum(axis=2) / np.maximum((towards**2).sum(axis=2), 400)
    share = np.where(grown > 0, np.clip(share, 0, 1), 0)
    share = np.where(share >= 2 * LEAST_ALPHA, share, 0)
    through = (1 - share)[..., None].repeat(3, axis=2)
    return Layer(_bytes(through * 255), _bytes((seen - under * through) * (share > 0)[..., None]))


def any_layer(side: int, seed: tuple[int, ...]) -> Layer:
    """A random layer: mostly hair, now and then with a ruler or ink."""
    random = np.random.default_rng(seed)
    kind = random.choice(6, p=[0.62, 0.18, 0.07, 0.05, 0.05, 0.03])
    if kind == 0:
        return hair_layer(side, random)
    draw = (None, draw_hairs, draw_ruler, draw_ink, None, None)[kind]
    if draw is not None:
        return drawn_layer(draw, side, seed)
    other = drawn_layer(draw_ruler if kind == 4 else draw_ink, side, seed)
    return stacked(hair_layer(side, random), other)


def stacked(top: Layer, bottom: Layer) -> Layer:
    """One layer over another."""
    through = top.through.astype(np.float32) / 255
    return Layer(_bytes(through * bottom.through), _bytes(through * bottom.own + top.own))


def _bytes(values: npt.NDArray[Any]) -> Image:
    return np.asarray(np.clip(values + 0.5, 0, 255), np.uint8)


def _walk(
    random: Random, middle: npt.NDArray[np.float64], angle: float, length: float, bend: float, wave: float
) -> npt.NDArray[np.float64]:
    """A course [POINTS, 2] of (x, y): a steady bend in radians over the length, and a wave."""
    along = np.linspace(0, 1, POINTS)
    heading = (
        angle
        + bend * (along - 0.5)
        + wave * np.sin(2 * np.pi * (random.uniform(0.4, 1.6) * along + random.random()))
    )
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * (length / POINTS)
    course = np.cumsum(steps, axis=0)
    return np.asarray(course - course[POINTS // 2] + middle)


def _heads(side: int, random: Random, most: float) -> tuple[int, float, float, float]:
    """Number of hairs, their direction and its spread, and their typical half width in pixels."""
    count = int(np.clip(random.lognormal(2.3, 0.8), 1, most))
    half = side / 512 * float(np.exp(random.uniform(np.log(0.4), np.log(2.8))))
    return count, random.uniform(0, np.pi), float(random.choice([0.15, 0.5, 1.6])), half


def _tapered(random: Random, half: float) -> npt.NDArray[np.float64]:
    """Half widths [POINTS] of a hair, which may end in a tip."""
    width = half * float(np.clip(random.lognormal(0, 0.25), 0.5, 1.8))
    tip = np.clip((1 - np.linspace(0, 1, POINTS)) / random.uniform(0.1, 0.9), 0, 1) ** 0.7
    return np.full(POINTS, width) if random.random() < 0.45 else width * (0.3 + 0.7 * tip)


def _long(side: int, random: Random) -> tuple[list[npt.NDArray[np.float64]], list[npt.NDArray[np.float64]]]:
    count, lean, spread, half = _heads(side, random, 45)
    courses = [
        _walk(
            random,
            random.uniform(-0.1, 1.1, 2) * side,
            random.normal(lean, spread),
            side * float(np.clip(random.lognormal(-0.5, 0.6), 0.08, 2)),
            random.normal(0, 0.8),
            random.normal(0, 0.15),
        )
        for _ in range(count)
    ]
    return courses, [_tapered(random, half) for _ in courses]


def _down(side: int, random: Random) -> tuple[list[npt.NDArray[np.float64]], list[npt.NDArray[np.float64]]]:
    """Downy hair: fine, short, faint."""
    count, lean, spread, _ = _heads(side, random, 80)
    half = side / 512 * random.uniform(0.3, 0.75)
    courses = [
        _walk(
            random,
            random.uniform(0, 1, 2) * side,
            random.normal(lean, spread),
            side * random.uniform(0.06, 0.4),
            random.normal(0, 0.9),
            random.normal(0, 0.2),
        )
        for _ in range(2 * count)
    ]
    return courses, [_tapered(random, half) for _ in courses]


def _curled(side: int, random: Random) -> tuple[list[npt.NDArray[np.float64]], list[npt.NDArray[np.float64]]]:
    count, lean, _, half = _heads(side, random, 18)
    tight = random.uniform(1.5, 7)
    courses = [
        _walk(
            random,
            random.uniform(0, 1, 2) * side,
            random.normal(lean, 2),
            side * random.uniform(0.3, 1.2),
            random.normal(0, tight),
            random.normal(0, 0.5),
        )
        for _ in range(count)
    ]
    return courses, [_tapered(random, half) for _ in courses]


def _stubble(side: int, random: Random) -> tuple[list[npt.NDArray[np.float64]], list[npt.NDArray[np.float64]]]:
    """Shaved hair: short and blunt, mostly in one direction, some with a grown tip."""
    lean, spread = random.uniform(0, np.pi), random.uniform(0.1, 0.8)
    half = side / 512 * random.uniform(0.7, 2.6)
    length = side * random.uniform(0.015, 0.1)
    courses = [
        _walk(
            random,
            random.uniform(0, 1, 2) * side,
            random.normal(lean, spread),
            length * random.uniform(0.5, 1.8),
            random.normal(0, 0.3),
            0.0,
        )
        for _ in range(random.integers(6, 90))
    ]
    return courses, [np.full(POINTS, half * random.uniform(0.7, 1.3)) for _ in courses]


def _bundles(side: int, random: Random) -> tuple[list[npt.NDArray[np.float64]], list[npt.NDArray[np.float64]]]:
    """Bundles of hairs that lie side by side and cross."""
    _, lean, spread, half = _heads(side, random, 10)
    courses: list[npt.NDArray[np.float64]] = []
    for _ in range(random.integers(1, 6)):
        middle, angle = random.uniform(0, 1, 2) * side, random.normal(lean, spread)
        length, bend = side * random.uniform(0.4, 1.6), random.normal(0, 0.8)
        across = np.array([-np.sin(angle), np.cos(angle)])
        for _ in range(random.integers(2, 9)):
            beside = middle + across * random.normal(0, 4 * half) + random.normal(0, 2, 2)
            courses.append(
                _walk(
                    random,
                    beside,
                    angle + random.normal(0, 0.06),
                    length,
                    bend + random.normal(0, 0.1),
                    random.normal(0, 0.05),
                )
            )
    return courses, [_tapered(random, half) for _ in courses]


def _colours(random: Random) -> tuple[npt.NDArray[np.float64], float, float]:
    """Colour of a head of hair, its opacity, and how much lighter its core or gleam is, levels of 255."""
    kind = random.choice(6, p=[0.34, 0.24, 0.14, 0.1, 0.1, 0.08])
    base = ((24, 20, 22), (58, 38, 28), (105, 76, 55), (120, 112, 108), (212, 204, 192), (165, 130, 95))[kind]
    opacity = random.uniform(
        *((0.75, 1.0), (0.65, 1.0), (0.5, 0.95), (0.4, 0.85), (0.35, 0.85), (0.35, 0.8))[kind]
    )
    gleam = random.uniform(10, 120) if random.random() < 0.4 else 0.0
    return np.clip(np.array(base) + random.normal(0, 14, 3), 0, 245), float(opacity), float(gleam)


def _sheet(
    strands: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]],
    side: int,
    colour: npt.NDArray[np.float64],
    opacity: float,
    gleam: float,
    random: Random,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Share that is covered [H, W] and colour [H, W, 3], drawn fine and reduced."""
    big = side * FINE
    alpha = np.zeros((big, big), np.uint8)
    tone = np.empty((side, side, 3), np.float32)
    tone[:] = colour
    for course, half in strands:
        strength = 255 * float(np.clip(opacity * random.uniform(0.75, 1.15), 0.15, 1))
        cv2.fillPoly(alpha, [_outline(course, half, FINE)], (strength,), cv2.LINE_AA, 4)
        own = np.clip(colour * random.normal(1, 0.12), 0, 250)
        cv2.fillPoly(tone, [_outline(course, half + 3, 1)], tuple(map(float, own)), cv2.LINE_8, 4)
        if gleam and half.max() > 0.7:
            first = random.integers(0, POINTS - 8)
            part = slice(first, first + random.integers(8, POINTS))
            shift = _sideways(course) * (half * random.uniform(-0.4, 0.4))[:, None]
            bright = tuple(float(value) for value in np.minimum(own + gleam * random.uniform(0.5, 1), 250))
            outline = _outline((course + shift)[part], half[part] * 0.4, 1)
            cv2.fillPoly(tone, [outline], bright, cv2.LINE_AA, 4)
    small = cv2.resize(alpha, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return np.asarray(small, np.float32), tone


def _sideways(course: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    along = np.gradient(course, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6)
    return np.stack([-along[:, 1], along[:, 0]], axis=1)


def _outline(course: npt.NDArray[np.float64], half: npt.NDArray[np.float64], fine: int) -> npt.NDArray[np.int32]:
    """A hair's outline in OpenCV's fixed point, four fractional bits."""
    offset = _sideways(course) * half[:, None]
    outline = np.concatenate([course + offset, (course - offset)[::-1]])
    # OpenCV places (0, 0) in the middle of the first pixel.
    return np.asarray(np.round(((outline + 0.5) * fine - 0.5) * 16), np.int32)
