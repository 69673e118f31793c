"""What lies between lens and lesion: hairs, a ruler's marks, a surgeon's ink, bubbles in the gel.

Each function takes a picture and a generator and returns a new picture and a mask. The mask is true on every
pixel that was touched, and every pixel outside it is left exactly as it was.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]
Numbers = NDArray[np.floating[Any]] | NDArray[np.signedinteger[Any]]

_SHIFT = 4  # OpenCV takes sub-pixel coordinates as fixed point with this many fractional bits
_FAINTEST = 10  # alpha (of 255) below which nothing is drawn: it would enlarge the mask without being seen
_HAIR_POINTS = 28


class Drawn(NamedTuple):
    """A picture with something drawn on it, and where."""

    rgb: Rgb
    mask: Mask


class _Sheet:
    """A clear sheet that is drawn on first and laid over a picture at the end.

    Its density is kept at twice the picture's resolution (hairs may be thinner than a pixel), its colour at the
    picture's own, where it is drawn wider than the density, so that soft edges have colour too.
    """

    def __init__(self, height: int, width: int, *, blur: float = 0.0) -> None:
        self.fine = 2 if min(height, width) < 1200 else 1
        self.alpha: NDArray[Any] = np.zeros((height * self.fine, width * self.fine), np.uint8)
        self.colour = np.zeros((height, width, 3), np.uint8)
        self.blur = blur if blur > 0.2 else 0.0
        self.margin = 3 + round(6 * self.blur)

    def polygon(self, outline: Numbers, colour: Floats, opacity: float) -> None:
        """Fill an outline [N, 2] of (x, y)."""
        cv2.fillPoly(self.alpha, [_fixed(outline * self.fine)], (255 * opacity,), cv2.LINE_AA, _SHIFT)
        tone, points = _scalar(colour), [_fixed(outline)]
        cv2.fillPoly(self.colour, points, tone, cv2.LINE_8, _SHIFT)
        cv2.polylines(self.colour, points, True, tone, self.margin, cv2.LINE_8, _SHIFT)

    def over(self, rgb: Rgb, *, absorbs: float) -> Drawn:
        """Lay the sheet over a picture; ``absorbs`` 0 covers it like paint, 1 darkens it like dye."""
        alpha: Any = self.alpha
        if self.fine > 1:
            alpha = cv2.resize(alpha, rgb.shape[1::-1], interpolation=cv2.INTER_AREA)
        if self.blur:
            alpha = cv2.GaussianBlur(alpha, (0, 0), self.blur)
        mask = alpha >= _FAINTEST
        tone = self.colour[mask].astype(np.float32)
        share = alpha[mask].astype(np.float32)[:, None] / 255
        under = rgb[mask].astype(np.float32)
        drawn = tone * (1 - absorbs) + under * tone * (absorbs / 255)
        out = rgb.copy()
        out[mask] = np.clip(under + (drawn - under) * share + 0.5, 0, 255).astype(np.uint8)
        return Drawn(out, mask)


def _fixed(points: Numbers) -> NDArray[np.int32]:
    """Coordinates as OpenCV's fixed-point ones; far outside they are clipped, as it overflows there."""
    return np.asarray(np.clip(np.round(points * (1 << _SHIFT)), -(2**28), 2**28), np.int32)


def _scalar(colour: Numbers) -> tuple[float, ...]:
    return tuple(float(c) for c in np.clip(colour, 0, 255))


def _strands(rng: np.random.Generator, count: int, height: int, width: int) -> tuple[Floats, Floats]:
    """Courses [count, P, 2] of (x, y) and half widths [count, P] of hairs."""
    short = min(height, width)
    # Neighbouring hairs mostly lie alike; some skins have them in all directions.
    lean, spread = rng.uniform(0, np.pi), rng.choice([0.12, 0.35, 1.6])
    angle = lean + rng.normal(0, spread, count) + np.pi * rng.integers(0, 2, count)
    length = short * np.clip(rng.lognormal(-0.35, 0.6, count), 0.06, 2.0)
    bend = rng.normal(0, 0.8, count) / np.maximum(length / short, 0.5)
    along = np.linspace(0, 1, _HAIR_POINTS)
    # A hair's direction drifts: a steady bend, a slow wave, sometimes a kink.
    wave = rng.normal(0, 0.16, count)[:, None] * np.sin(
        2 * np.pi * (along * rng.uniform(0.5, 1.8, count)[:, None] + rng.uniform(0, 1, count)[:, None])
    )
    kink = np.where(rng.random(count) < 0.15, rng.normal(0, 0.6, count), 0)[:, None]
    turn = kink / (1 + np.exp(-(along - rng.uniform(0.2, 0.8, count)[:, None]) * 40))
    heading = angle[:, None] + bend[:, None] * along + wave + turn
    step = (length / (_HAIR_POINTS - 1))[:, None]
    course = np.stack([np.cumsum(np.cos(heading) * step, 1), np.sin(heading).cumsum(1) * step], axis=2)
    middle = rng.uniform([-0.1 * width, -0.1 * height], [1.1 * width, 1.1 * height], (count, 2))
    course += (middle - course[:, _HAIR_POINTS // 2])[:, None]

    # Dermoscopic hairs measure 0.2 to 1.2 % of the short side; one head of hair varies little.
    typical = short * rng.uniform(0.0015, 0.0048)
    half = typical * np.clip(rng.lognormal(0, 0.3, count), 0.4, 2.2)
    half = np.maximum(half, 0.22)
    tip = np.clip((1 - along) / rng.uniform(0.1, 0.9, count)[:, None], 0, 1) ** 0.7
    cut = rng.random(count)[:, None] < 0.35  # shaved or leaving the field: no tip to be seen
    return course.astype(np.float32), (half[:, None] * np.where(cut, 1, 0.25 + 0.75 * tip)).astype(np.float32)


def _hair_colour(rng: np.random.Generator) -> tuple[Floats, Floats, float]:
    """Colours of rim and core, and the opacity, of one person's hair."""
    kind = rng.choice(4, p=[0.42, 0.30, 0.16, 0.12])
    rims = ((22, 18, 20), (52, 30, 20), (98, 70, 50), (214, 204, 190))  # black, brown, fair, white
    rim = np.asarray(rims[kind], np.float32) + rng.normal(0, 9, 3)
    core = rim + np.asarray(((14, 10, 10), (46, 32, 20), (40, 34, 24), (18, 18, 18))[kind]) * rng.uniform(0.2, 1.6)
    opacity = float(rng.uniform(*((0.8, 1.0), (0.72, 1.0), (0.5, 0.85), (0.35, 0.7))[kind]))
    return np.clip(rim, 0, 255).astype(np.float32), np.clip(core, 0, 255).astype(np.float32), opacity


def draw_hairs(rgb: Rgb, rng: np.random.Generator, *, count: int | None = None) -> Drawn:
    """Draw curved, tapering, anti-aliased hairs of one person: dark or light, sharp and out of focus.

    Args:
        rgb: uint8 [H, W, 3]; not changed.
        rng: Source of all choices.
        count: Number of hairs; by default from a handful to a thicket. Hairs may lie partly outside.

    Returns:
        The picture with hairs, and a mask bool [H, W] of every pixel that they touch.
    """
    height, width = rgb.shape[:2]
    if count is None:
        count = int(np.clip(rng.lognormal(2.3, 0.8), 2, 60))
    course, half = _strands(rng, count, height, width)
    direction = np.gradient(course, axis=1)
    direction /= np.maximum(np.linalg.norm(direction, axis=2, keepdims=True), 1e-6)
    side = np.stack([-direction[..., 1], direction[..., 0]], axis=2)
    rim, core, opacity = _hair_colour(rng)
    tones = rng.normal(1, 0.12, count)
    strengths = np.clip(opacity * rng.uniform(0.8, 1.1, count), 0.25, 1)
    # Hairs further from the glass are out of focus: they go onto a second sheet, which is blurred.
    far = rng.random(count) < rng.choice([0.0, 0.25, 0.6])
    drawn = Drawn(rgb, np.zeros((height, width), bool))
    for blurred in (True, False):
        chosen = np.nonzero(far == blurred)[0]
        if not len(chosen) and (blurred or drawn.rgb is not rgb):
            continue
        sharpness = rng.uniform(0.8, 1.8) if blurred else rng.uniform(0.0, 0.6)
        sheet = _Sheet(height, width, blur=min(height, width) / 512 * sharpness)
        for i in chosen:
            offset = side[i] * half[i, :, None]
            _draw_hair(sheet, course[i], offset, rim=rim * tones[i], core=core * tones[i], opacity=strengths[i])
        rgb_on, mask = sheet.over(drawn.rgb, absorbs=0.25)
        drawn = Drawn(rgb_on, drawn.mask | mask)
    return drawn


def _draw_hair(
    sheet: _Sheet, course: Floats, offset: Floats, *, rim: Floats, core: Floats, opacity: float
) -> None:
    """One hair: a dark rim and, where it is wide enough to be seen, a lighter core."""
    outline = np.concatenate([course + offset, (course - offset)[::-1]])
    sheet.polygon(outline, rim, opacity)
    if np.abs(offset).max() > 1:
        inner = np.concatenate([course + offset * 0.35, (course - offset * 0.35)[::-1]])
        cv2.fillPoly(sheet.colour, [_fixed(inner)], _scalar(core), cv2.LINE_AA, _SHIFT)


def draw_ruler(rgb: Rgb, rng: np.random.Generator, *, count: int | None = None) -> Drawn:
    """Draw the marks of a ruler along one side, every fifth and tenth longer, sometimes with figures.

    Args:
        rgb: uint8 [H, W, 3]; not changed.
        rng: Source of all choices.
        count: Number of marks; by default as many as fit.

    Returns:
        The picture with marks, and a mask bool [H, W] of every pixel that they touch.
    """
    height, width = rgb.shape[:2]
    short = min(height, width)
    sheet = _Sheet(height, width, blur=short / 512 * rng.uniform(0, 0.8))
    pitch = short * rng.uniform(0.025, 0.07)
    vertical, far = rng.random(2) < 0.5
    reach = float(height if vertical else width)
    if count is None:
        count = int(reach / pitch * rng.uniform(0.5, 1.0))
    count = max(2, count)
    start = rng.uniform(0, max(reach - count * pitch, pitch))
    base = short * rng.uniform(0.01, 0.05)
    tick = short * rng.uniform(0.02, 0.045)
    thick = max(short * rng.uniform(0.0010, 0.0022), 0.4)
    tilt = np.tan(rng.normal(0, 0.04))
    tone = np.asarray(rng.choice([25, 55, 95])) + rng.normal(0, 6, 3)
    opacity = rng.uniform(0.55, 0.95)
    for i in range(count):
        at = start + i * pitch
        long = tick * (2.0 if i % 10 == 0 else 1.5 if i % 5 == 0 else 1.0)
        off = base + tilt * at
        ends = np.array([[off, at - thick], [off + long, at - thick], [off + long, at + thick], [off, at + thick]])
        if far:
            ends[:, 0] = (width if vertical else height) - ends[:, 0]
        outline = ends if vertical else ends[:, ::-1]
        sheet.polygon(outline, tone.astype(np.float32), opacity)
        if i % 10 == 0 and pitch > 6:
            beside = np.array([long, 0] if vertical else [0, long]) * (-1.1 if far else 1.1)
            _figure(sheet, str(i // 10), outline.mean(axis=0) + beside, tone, opacity)
    return sheet.over(rgb, absorbs=0.5)


def _figure(sheet: _Sheet, text: str, at: Numbers, tone: Numbers, opacity: float) -> None:
    """A figure around a point (x, y)."""
    x, y = at
    scale = min(sheet.colour.shape[:2]) / 1100
    for target, zoom, ink, wider in (
        (sheet.alpha, sheet.fine, (opacity * 255,), 0),
        (sheet.colour, 1, _scalar(tone), sheet.margin),
    ):
        place = (round((x - 8 * scale) * zoom), round((y + 8 * scale) * zoom))
        weight = max(1, round(1.7 * scale * zoom)) + wider
        cv2.putText(target, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale * zoom, ink, weight, cv2.LINE_AA)


def draw_ink(rgb: Rgb, rng: np.random.Generator, *, count: int | None = None) -> Drawn:
    """Draw strokes and dots of a skin marker near the border of the picture; the skin shines through.

    Args:
        rgb: uint8 [H, W, 3]; not changed.
        rng: Source of all choices.
        count: Number of strokes; one to four by default.

    Returns:
        The picture with ink, and a mask bool [H, W] of every pixel that it touches.
    """
    height, width = rgb.shape[:2]
    short = min(height, width)
    if count is None:
        count = int(rng.integers(1, 5))
    sheet = _Sheet(height, width, blur=short / 512 * rng.uniform(0.5, 1.5))
    inks = ((70, 40, 130), (40, 60, 150), (30, 30, 45), (30, 95, 85))  # gentian violet, blue, black, green
    sheet.colour[:] = np.clip(np.asarray(rng.choice(inks)) + rng.normal(0, 8, 3), 0, 255).astype(np.uint8)
    for _ in range(count):
        angle = rng.uniform(0, 2 * np.pi)
        middle = np.array([width, height]) * (
            0.5 + np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.38, 0.5)
        )
        along = rng.uniform(0, np.pi) if rng.random() < 0.5 else angle + np.pi / 2
        steps = np.linspace(-0.5, 0.5, 24)[:, None] * short * rng.uniform(0.0, 0.35)
        sway = np.cumsum(rng.normal(0, short * 0.004, (24, 2)), axis=0)
        course = middle + steps * np.array([np.cos(along), np.sin(along)]) + sway
        weight = short * rng.uniform(0.012, 0.03)
        for x, y in course:
            spot = _fixed(np.array([x, y, weight * rng.uniform(0.75, 1.1)]) * sheet.fine).tolist()
            cv2.circle(sheet.alpha, spot[:2], spot[2], (255,), -1, cv2.LINE_AA, _SHIFT)
    # Ink settles unevenly between the skin's furrows.
    grain = rng.uniform(0.55, 1.0, (max(height // 4, 2), max(width // 4, 2))).astype(np.float32)
    spread = cv2.resize(grain, sheet.alpha.shape[::-1], interpolation=cv2.INTER_LINEAR) * rng.uniform(0.75, 1.0)
    sheet.alpha = cv2.multiply(sheet.alpha, spread, dtype=cv2.CV_8U)
    return sheet.over(rgb, absorbs=0.7)


def draw_bubbles(rgb: Rgb, rng: np.random.Generator, *, count: int | None = None) -> Drawn:
    """Draw air bubbles of the immersion gel: dark and bright rims, small highlights, a clear middle.

    Args:
        rgb: uint8 [H, W, 3]; not changed.
        rng: Source of all choices.
        count: Number of bubbles; three to thirty by default.

    Returns:
        The picture with bubbles, and a mask bool [H, W] of every pixel that they touch.
    """
    height, width = rgb.shape[:2]
    short = min(height, width)
    if count is None:
        count = int(rng.integers(3, 31))
    sheet = _Sheet(height, width, blur=short / 512 * rng.uniform(0.2, 0.6))
    for _ in range(count):
        place = rng.uniform(0, 1, 2) * [width, height]
        radius = short * np.clip(rng.lognormal(-4.7, 0.7), 0.004, 0.06)
        turn, opacity = rng.uniform(0, 360), rng.uniform(0.35, 0.8)
        for start, sweep, grey in ((0, 360, 120), (0, rng.uniform(90, 200), 235), (200, 30, 252)):
            axes = np.array([radius, radius * rng.uniform(0.92, 1.0)])
            weight = radius * (0.10 if grey < 250 else 0.25)
            for target, zoom, ink, wider in (
                (sheet.alpha, sheet.fine, (255 * opacity,), 0),
                (sheet.colour, 1, (grey, grey, grey), sheet.margin),
            ):
                at, size = _fixed(place * zoom).tolist(), _fixed(axes * zoom).tolist()
                line = max(1, round(weight * zoom)) + wider
                cv2.ellipse(target, at, size, turn, start, start + sweep, ink, line, cv2.LINE_AA, _SHIFT)
    return sheet.over(rgb, absorbs=0.0)
