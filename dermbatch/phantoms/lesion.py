"""Lesions of several shapes and colours, painted into skin as pigment and blood, with their true masks."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from dermbatch.phantoms.skin import HAEMOGLOBIN, MELANIN, absorb, cloud, ridges

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Common = Literal["nevus", "melanoma", "keratosis"]
Kind = Literal["nevus", "melanoma", "keratosis", "ring"]
"""A ring is of a rare kind: pale, and no sample is one unless it is asked for."""

_YELLOW = np.array([0.35, 0.8, 1.7], np.float32)  # keratin lets less blue through than melanin does


def outline(rng: np.random.Generator, height: int, width: int, kind: Kind) -> tuple[Floats, Mask]:
    """The shape of a lesion.

    Returns:
        depth: float32 [H, W], 0 on the border, rising to about 1 in the middle, negative outside.
        mask: bool [H, W], one piece without holes; true where the depth is positive.
    """
    short = min(height, width)
    radius = short * rng.uniform(0.14, 0.34)
    centre = np.array([width, height]) / 2 + rng.normal(0, 0.05, 2) * short
    if kind == "ring":
        radius = max(radius, 0.24 * short)
    rough = {"nevus": 0.05, "melanoma": 0.11, "keratosis": 0.07, "ring": 0.04}[kind] * rng.uniform(0.6, 1.4)
    several = {"nevus": 0.15, "melanoma": 0.7, "keratosis": 0.35, "ring": 0.0}[kind]
    lobes = int(rng.integers(2, 5)) if rng.random() < several else 1
    depth = np.full((height, width), -np.inf, np.float32)
    for lobe in range(lobes):
        size = radius if lobe == 0 else radius * rng.uniform(0.4, 0.8)
        away = 0.0 if lobe == 0 else radius * rng.uniform(0.5, 0.95)
        turn = rng.uniform(0, 2 * np.pi)
        place = centre + away * np.array([np.cos(turn), np.sin(turn)])
        depth = np.maximum(depth, _blob(rng, (height, width), place, size, rough) * np.float32(size / radius))
    depth += cloud(rng, height, width, radius / 3) * np.float32(rough * 0.45)
    depth += cloud(rng, height, width, radius / 10) * np.float32(rough * 0.25)
    mask = _one_piece(depth > 0)
    # Where the mask was cleaned the picture must follow it.
    depth = np.where(mask, np.maximum(depth, 1e-3), np.minimum(depth, -0.04 * (depth > 0)))
    return depth, mask


def _blob(
    rng: np.random.Generator,
    shape: tuple[int, int],
    centre: NDArray[np.floating[Any]],
    radius: float,
    rough: float,
) -> Floats:
    """Depth of one rounded shape: an ellipse whose radius sways with the angle."""
    squeeze, turn = np.sqrt(rng.uniform(1, 1.7)), rng.uniform(0, np.pi)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    x -= np.float32(centre[0])
    y -= np.float32(centre[1])
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    distance, angle = cv2.cartToPolar((c * x + s * y) / np.float32(squeeze), (c * y - s * x) * np.float32(squeeze))
    table = np.linspace(0, 2 * np.pi, 1024, endpoint=False)
    sway = sum(
        rng.normal(0, rough / np.sqrt(k)) * np.cos(k * table + rng.uniform(0, 2 * np.pi)) for k in range(2, 9)
    )
    reach = (radius * np.exp(sway)).astype(np.float32)
    return np.asarray(1 - distance / reach[(angle * np.float32(1024 / (2 * np.pi))).astype(np.int32) % 1024])


def _one_piece(mask: Mask) -> Mask:
    """The largest piece, its holes filled."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(mask.shape, np.uint8)
    if outlines:
        cv2.drawContours(filled, [max(outlines, key=cv2.contourArea)], -1, (1,), cv2.FILLED)
    return filled.astype(bool)


def paint(rng: np.random.Generator, rgb: Floats, depth: Floats, kind: Kind) -> Floats:
    """Colour a lesion.

    Args:
        rng: Source of all choices.
        rgb: Skin, float32 [H, W, 3], 0 to 255.
        depth: As `outline` returns it.
        kind: What it looks like.

    Returns:
        float32 [H, W, 3], 0 to 255.
    """
    low, high = {
        "nevus": (0.02, 0.12),
        "melanoma": (0.015, 0.09),
        "keratosis": (0.008, 0.03),
        "ring": (0.01, 0.03),
    }[kind]
    softness = float(rng.uniform(low, high))
    cell = float(np.sqrt((depth > 0).sum() / np.pi)) + 4
    box = _around(depth > -7 * softness)  # where the lesion's share is a thousandth or more
    share = np.asarray(1 / (1 + cv2.exp(np.clip(-depth[box] / np.float32(softness), -30, 30))), np.float32)
    draw = {"nevus": _nevus, "melanoma": _melanoma, "keratosis": _keratosis, "ring": _ring}[kind]
    out = rgb.copy()
    out[box] = draw(rng, rgb[box], depth[box], share, cell)
    return out


def _around(mask: Mask) -> tuple[slice, slice]:
    """The rows and columns that hold what is true."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    if not len(rows):
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _nevus(rng: np.random.Generator, rgb: Floats, depth: Floats, share: Floats, cell: float) -> Floats:
    """One or two browns, darker in the middle, a regular network; some are pink and faint."""
    height, width = depth.shape
    pink = rng.random() < 0.15
    density = rng.uniform(0.15, 0.35) if pink else rng.uniform(0.55, 1.6)
    inside = np.clip(depth, 0, 1)
    pigment = density * (1 + rng.uniform(-0.2, 0.9) * inside + 0.12 * cloud(rng, height, width, cell / 3))
    pigment *= 1 + 0.12 * cloud(rng, height, width, cell / 14)
    network = ridges(rng, height, width, cell / rng.uniform(9, 16), sharpness=2.2)
    pigment += network * density * rng.uniform(0.1, 0.6) * (1 - 0.5 * inside)
    blood = (rng.uniform(0.25, 0.6) if pink else rng.uniform(0.0, 0.15)) * (
        1 + 0.2 * cloud(rng, height, width, cell / 4)
    )
    rgb = absorb(rgb, np.clip(pigment, 0, 6) * share, MELANIN)
    return absorb(rgb, np.clip(blood, 0, 3) * share, HAEMOGLOBIN)


def _melanoma(rng: np.random.Generator, rgb: Floats, depth: Floats, share: Floats, cell: float) -> Floats:
    """Several browns to black, a blue-grey veil, red and white areas, all off the middle."""
    height, width = depth.shape
    patches = cloud(rng, height, width, cell / rng.uniform(1.2, 2.5))
    pigment = rng.uniform(0.8, 1.5) * (1 + 0.55 * patches + 0.2 * cloud(rng, height, width, cell / 6))
    pigment += ridges(rng, height, width, cell / rng.uniform(5, 10), sharpness=1.8) * rng.uniform(0.1, 0.7)
    dots = np.clip(cloud(rng, height, width, cell / 12) - 1.4, 0, 1)
    pigment += dots * rng.uniform(0.5, 2.0)
    blood = np.clip(cloud(rng, height, width, cell / 1.5), 0, 2) * rng.uniform(0.1, 0.7)
    out = absorb(rgb, np.clip(pigment, 0.15, 5) * share, MELANIN)
    out = absorb(out, np.clip(blood, 0, 3) * share, HAEMOGLOBIN)
    veil = np.clip(cloud(rng, height, width, cell / 1.3) - rng.uniform(0.2, 1.2), 0, 1) * np.clip(depth * 4, 0, 1)
    pale = np.clip(cloud(rng, height, width, cell / 1.6) - rng.uniform(0.9, 1.8), 0, 1) * np.clip(depth * 4, 0, 1)
    out += (np.array([92, 100, 122], np.float32) - out) * (np.clip(veil * 0.7, 0, 0.6) * share)[..., None]
    out += (rgb * 0.92 + 8 - out) * np.clip(pale * 0.8, 0, 0.65)[..., None]
    return np.clip(out, 0, 255)


def _keratosis(rng: np.random.Generator, rgb: Floats, depth: Floats, share: Floats, cell: float) -> Floats:
    """Waxy yellow to brown with a sharp border, dark plugs and bright cysts."""
    height, width = depth.shape
    pigment = rng.uniform(0.35, 1.2) * (1 + 0.18 * cloud(rng, height, width, cell / 3))
    gyri = ridges(rng, height, width, cell / rng.uniform(4, 8), sharpness=2.5)
    pigment += gyri * rng.uniform(0.05, 0.6) + 0.1 * cloud(rng, height, width, cell / 25)
    spots = np.zeros((height, width), np.float32)
    cysts = np.zeros((height, width), np.float32)
    rows, columns = np.nonzero(depth > 0.06)
    for sheet, most in ((spots, 40), (cysts, 25)):
        for _ in range(int(rng.integers(0, most)) if len(rows) else 0):
            at = int(rng.integers(len(rows)))
            size = max(1, round(cell * rng.uniform(0.012, 0.045)))
            cv2.circle(
                sheet, (int(columns[at]), int(rows[at])), size, (float(rng.uniform(0.4, 1)),), -1, cv2.LINE_AA
            )
    blur = max(cell * 0.008, 0.4)
    pigment += cv2.GaussianBlur(spots, (0, 0), blur) * rng.uniform(0.8, 2.5)
    out = absorb(rgb, np.clip(pigment, 0.05, 5) * share, _YELLOW if rng.random() < 0.6 else MELANIN)
    bright = cv2.GaussianBlur(cysts, (0, 0), blur * 2) * share * rng.uniform(0.3, 0.8)
    out += (np.array([235, 225, 205], np.float32) - out) * np.clip(bright, 0, 1)[..., None]
    return np.clip(out, 0, 255)


def _ring(rng: np.random.Generator, rgb: Floats, depth: Floats, share: Floats, cell: float) -> Floats:
    """A raised pale rim around skin that is a little redder: as of granuloma annulare, and no brown at all."""
    height, width = depth.shape
    wide = rng.uniform(0.3, 0.5)
    rim = np.exp(-(((depth - wide / 2) / np.float32(wide / 2)) ** 4)).astype(np.float32)
    beads = 1 + 0.25 * cloud(rng, height, width, cell / 6) + 0.1 * cloud(rng, height, width, cell / 20)
    pale = np.clip(rng.uniform(0.35, 0.6) * rim * beads, 0, 0.8) * share
    blood = rng.uniform(0.0, 0.05) * np.clip(depth * 4, 0, 1) * (1 - rim) * share
    out = absorb(rgb, np.clip(blood, 0, 1).astype(np.float32), HAEMOGLOBIN)
    white = np.array([248, 236, 222], np.float32) + rng.normal(0, 4, 3).astype(np.float32)
    out += (white - out) * pale[..., None]
    return np.clip(out, 0, 255)
