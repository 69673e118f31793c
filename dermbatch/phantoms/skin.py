"""Skin of several tones under a dermoscope: furrows, small vessels, freckles, uneven light, dark corners."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]
Floats = NDArray[np.float32]

MELANIN = np.array([0.55, 1.0, 1.4], np.float32)
"""Absorbance of melanin by channel (red, green, blue), relative to green: what makes brown."""
HAEMOGLOBIN = np.array([0.12, 1.0, 0.8], np.float32)
"""Absorbance of blood by channel, relative to green."""

# Bloodless skin under white, bluish and lilac light, as dermoscopes and cameras render it.
_LIGHTS = ((246, 226, 212), (236, 228, 226), (214, 214, 236), (226, 200, 224), (244, 214, 196))
_TONES = (0.05, 0.12, 0.22, 0.34, 0.55, 0.85)  # melanin of Fitzpatrick skin types I to VI


def cloud(rng: np.random.Generator, height: int, width: int, cell: float) -> Floats:
    """Smooth noise [H, W] of about unit variance whose features are ``cell`` pixels wide."""
    step = max(cell, 1.0)
    # Cut out at a random place: the grid's nodes must not always fall on the same pixels.
    left, top = rng.integers(0, int(step) + 1, 2)
    across, down = int((width + left) / step) + 2, int((height + top) / step) + 2
    coarse = rng.standard_normal((max(down, 4), max(across, 4)), dtype=np.float32) * np.float32(1.4)
    size = (max(round(coarse.shape[1] * step), left + width), max(round(coarse.shape[0] * step), top + height))
    fine = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine[top : top + height, left : left + width], np.float32)


def ridges(rng: np.random.Generator, height: int, width: int, cell: float, *, sharpness: float = 5.0) -> Floats:
    """A net of lines [H, W], 0 to 1, whose meshes are about ``cell`` pixels wide."""
    return np.asarray(cv2.exp(-((cloud(rng, height, width, cell) * np.float32(sharpness)) ** 2)), np.float32)


def absorb(rgb: Floats, pigment: Floats, coefficients: Floats) -> Floats:
    """Light [H, W, 3] after a pigment of density ``pigment`` [H, W] (Beer and Lambert's law)."""
    out: Floats = rgb * cv2.exp(-pigment[..., None] * coefficients)
    return out


def skin(rng: np.random.Generator, height: int, width: int) -> Floats:
    """A field of healthy skin.

    Returns:
        float32 [H, W, 3], 0 to 255.
    """
    short = min(height, width)
    light = np.asarray(rng.choice(_LIGHTS), np.float32) + rng.normal(0, 4, 3).astype(np.float32)
    melanin = float(rng.choice(_TONES, p=(0.22, 0.26, 0.22, 0.15, 0.1, 0.05)) * rng.uniform(0.85, 1.2))
    pigment = melanin * (
        1 + 0.08 * cloud(rng, height, width, short / 5) + 0.05 * cloud(rng, height, width, short / 40)
    )
    furrows = ridges(rng, height, width, short / rng.uniform(28, 60), sharpness=4)
    pigment += furrows * melanin * rng.uniform(0.05, 0.3)
    if rng.random() < 0.3:
        freckles = cloud(rng, height, width, short / rng.uniform(15, 30)) - 2.2
        pigment += np.clip(freckles, 0, 1) * rng.uniform(0.15, 0.5)
    patchy = cloud(rng, height, width, short / 3)
    blood = rng.uniform(0.05, 0.28) * (1 + 0.12 * patchy + 0.08 * cloud(rng, height, width, short / 18))
    if rng.random() < 0.5:
        vessels = ridges(rng, height, width, short / rng.uniform(9, 16), sharpness=9)
        blood += vessels * np.clip(patchy, 0, 1) * rng.uniform(0.05, 0.2)
    rgb = absorb(np.broadcast_to(light, (height, width, 3)), np.maximum(pigment, 0).astype(np.float32), MELANIN)
    rgb = absorb(rgb, np.maximum(blood, 0).astype(np.float32), HAEMOGLOBIN)
    rgb *= _uneven(rng, height, width)[..., None]
    return rgb


def _uneven(rng: np.random.Generator, height: int, width: int) -> Floats:
    """The light's share that reaches each pixel: a slope and a slow fall towards the rim."""
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    slope = rng.normal(0, 0.04, 2).astype(np.float32)
    fall = np.float32(rng.uniform(0, 0.1))
    return np.asarray(1 + slope[0] * y + slope[1] * x - fall * (x * x + y * y) / 2, np.float32)


def grain(rng: np.random.Generator, rgb: Floats, strength: float) -> Rgb:
    """The camera's noise, then 8 bit: uint8 [H, W, 3] of a float32 picture."""
    height, width = rgb.shape[:2]
    noise = rng.standard_normal((height, width), dtype=np.float32)
    noise = noise * np.float32(0.6) + cv2.GaussianBlur(noise, (0, 0), 1.0)
    noisy = rgb + (noise * np.float32(strength))[..., None]
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)


def draw_vignette(rgb: Rgb, rng: np.random.Generator) -> Rgb:
    """Darken the corners as a dermoscope's tube does: a soft fall, or a black frame around a disc.

    Args:
        rgb: uint8 [H, W, 3]; not changed.
        rng: Source of all choices.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = rgb.shape[:2]
    half = np.hypot(height, width) / 2
    radius = half * rng.uniform(0.72, 0.98)
    soft = half * rng.choice([rng.uniform(0.006, 0.03), rng.uniform(0.05, 0.15)])
    shift = rng.normal(0, 0.02, 2) * min(height, width)
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(height / 2 + shift[0])
    x = np.arange(width, dtype=np.float32)[None] - np.float32(width / 2 + shift[1])
    outside = (np.sqrt(x * x + y * y) - np.float32(radius)) / np.float32(soft)
    share = 1 / (1 + np.exp(np.clip(outside, -20, 20)))
    return np.clip(rgb * share[..., None] + 0.5, 0, 255).astype(np.uint8)
