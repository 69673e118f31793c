"""Hairs, rulers, ink and bubbles as layers that can be laid over any picture: drawn once, used on any device."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from lesionnets.data.augment import Random, hair_curve

Layer = npt.NDArray[np.uint8]
"""RGBA [S, S, 4]: colour and opacity."""


def layers(count: int, size: int, random: Random) -> Layer:
    """Draw ``count`` layers [count, S, S, 4]: two thirds hair, the rest rulers, ink and bubbles."""
    draw = (_hairs, _hairs, _hairs, _hairs, _ruler, _ink, _bubbles)
    return np.stack([draw[index % len(draw)](size, random) for index in range(count)])


def _empty(size: int, colour: npt.ArrayLike) -> Layer:
    layer = np.zeros((size, size, 4), np.uint8)
    layer[..., :3] = np.clip(colour, 0, 255)
    return layer


def _hairs(size: int, random: Random) -> Layer:
    """Up to thirty hairs of one person, with similar shade and width, some out of focus."""
    shade = random.uniform(10, 90) if random.random() < 0.85 else random.uniform(170, 230)
    layer = _empty(size, shade + random.normal(0, 10, 3))
    alpha = np.zeros((size, size), np.uint8)
    width = random.choice([1, 1, 2, 3])
    for _ in range(random.integers(1, 31)):
        curve = hair_curve(size, random)
        strength = int(random.uniform(120, 255))
        cv2.polylines(
            alpha, [np.round(curve * 8).astype(np.int32)], False, (strength,), int(width), cv2.LINE_AA, 3
        )
    layer[..., 3] = cv2.GaussianBlur(alpha, (0, 0), random.uniform(0.5, 1.2)) if random.random() < 0.5 else alpha
    return layer


def _ruler(size: int, random: Random) -> Layer:
    """Marks of a millimetre scale along one side."""
    layer = _empty(size, np.repeat(random.uniform(0, 80), 3))
    step, row = random.uniform(0.02, 0.08) * size, random.uniform(0.02, 0.3) * size
    for number in range(int(size / step)):
        length = (2 if number % 5 == 0 else 1) * 0.03 * size
        ends = (int(number * step), int(row)), (int(number * step), int(row + length))
        cv2.line(layer, *ends, (*map(int, layer[0, 0, :3]), 230), 1)
    return layer


def _ink(size: int, random: Random) -> Layer:
    """Strokes of a marker pen, blue or violet, half transparent."""
    layer = _empty(size, np.array([60, 40, 120]) + random.normal(0, 30, 3))
    alpha = np.zeros((size, size), np.uint8)
    for _ in range(random.integers(1, 4)):
        points = np.cumsum(random.normal(0, 0.12, (8, 2)), axis=0) * size + random.uniform(0, 1, 2) * size
        strength = int(random.uniform(90, 220))
        cv2.polylines(
            alpha, [points.astype(np.int32)], False, (strength,), int(random.integers(3, 12)), cv2.LINE_AA
        )
    layer[..., 3] = cv2.GaussianBlur(alpha, (0, 0), 1.5)
    return layer


def _bubbles(size: int, random: Random) -> Layer:
    """Rings of light around bubbles in the gel."""
    layer = _empty(size, [240, 240, 240])
    alpha = np.zeros((size, size), np.uint8)
    for _ in range(random.integers(2, 25)):
        centre = tuple(int(value) for value in random.uniform(0, size, 2))
        strength = int(random.uniform(60, 200))
        cv2.circle(alpha, centre, int(random.uniform(0.005, 0.05) * size), (strength,), 1, cv2.LINE_AA)
    layer[..., 3] = cv2.GaussianBlur(alpha, (0, 0), 0.7)
    return layer
