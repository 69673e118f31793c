"""How much detail super-resolution brings back: PSNR against the true image, beside bicubic interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from lesionnets.evaluation.intervals import Figure, bootstrap_mean

Image = npt.NDArray[np.uint8]
"""RGB, uint8 [H, W, 3]."""

Reduction = Literal["bicubic", "area"]
SCALE = 4


def psnr(one: Image, other: Image) -> float:
    """Peak signal-to-noise ratio of two uint8 images of one shape, in dB; infinite where they are equal."""
    error = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def reduce(image: Image, how: Reduction = "bicubic") -> Image:
    """A quarter of an image on each side, antialiased: what a camera with fewer pixels had seen.

    Args:
        image: Sides must be multiples of 4.
        how: ``bicubic`` is the kernel that the super-resolution papers use; ``area`` the mean of 4 x 4 pixels.
    """
    height, width = image.shape[0] // SCALE, image.shape[1] // SCALE
    if how == "area":
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    small = PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.BICUBIC)
    return np.asarray(small, dtype=np.uint8)


def bicubic(image: Image) -> Image:
    """x4 by bicubic interpolation."""
    size = (image.shape[1] * SCALE, image.shape[0] * SCALE)
    return np.asarray(PillowImage.fromarray(image).resize(size, PillowImage.Resampling.BICUBIC), dtype=np.uint8)


@dataclass(frozen=True)
class EnhanceFigures:
    """PSNR in dB over images."""

    psnr: Figure
    psnr_bicubic: Figure
    gain: Figure


def measure(
    enhance: Callable[[Image], Image], images: Sequence[Image], *, how: Reduction = "bicubic"
) -> EnhanceFigures:
    """Reduce each image, enhance it again and compare with what it was.

    Args:
        enhance: From uint8 [h, w, 3] to uint8 [4h, 4w, 3].
        images: The truth; sides that are no multiple of 4 lose up to 3 pixels.
        how: The reduction.
    """
    ours, plain = [], []
    for image in images:
        height, width = (side - side % SCALE for side in image.shape[:2])
        truth = np.ascontiguousarray(image[:height, :width])
        small = reduce(truth, how)
        ours.append(psnr(enhance(small), truth))
        plain.append(psnr(bicubic(small), truth))
    gains = [a - b for a, b in zip(ours, plain, strict=True)]
    return EnhanceFigures(bootstrap_mean(ours), bootstrap_mean(plain), bootstrap_mean(gains))
