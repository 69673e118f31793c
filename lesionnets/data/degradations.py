"""How pictures lose resolution: what enhancement is trained to undo and is measured on.

SkinSegmentSRGAN (section 4.1) makes its pairs "by downsampling the original images and applying various
degradation operations to simulate real-world conditions" and names neither operations nor strengths. Here are
four models with names, all of which reduce by four on each side, or by another scale:

- ``plain``: bicubic with antialiasing, what papers on super-resolution report on.
- ``area``: the mean of the pixels that become one, as a sensor of larger pixels sees.
- ``clinical`` and ``paper``: in the order in which a camera does it (Wang et al., "Real-ESRGAN", ICCVW 2021,
  section 3.1, first order): blur, bicubic reduction, noise, JPEG, with strengths drawn for each picture.

``clinical`` stays within usable photographs. Bicubic interpolation reaches an SSIM of 0.86 on them and 34 dB,
while SkinSegmentSRGAN's table 3 gives it 0.712 and 25.4 dB: the paper degraded more. ``paper`` has the ranges that
Real-ESRGAN trains with; bicubic interpolation of the validation crops has 0.70 and 29.3 dB there.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

Image = npt.NDArray[np.uint8]
"""RGB, uint8 [H, W, 3]."""

SCALE = 4


@dataclass(frozen=True)
class Strengths:
    """Ranges (from, to) of what is drawn evenly for each picture.

    Attributes:
        blur: Standard deviation of the Gaussian blur of lens and hand, in quarters of a pixel of the small
            picture: pixels of the original where that is reduced by four.
        noise: Standard deviation of the sensor's Gaussian noise, of 255, in the small picture.
        quality: Quality of JPEG, 1 to 100.
    """

    blur: tuple[float, float]
    noise: tuple[float, float]
    quality: tuple[int, int]


class Degradation(StrEnum):
    """Name of a model; see the module."""

    PLAIN = "plain"
    AREA = "area"
    CLINICAL = "clinical"
    PAPER = "paper"


STRENGTHS = {
    # Blur up to five eighths of a pixel of the small picture: what is less sharp is photographed again. Noise:
    # the real photographs of the DND benchmark (Plötz and Roth, CVPR 2017), taken at high sensitivity, have about
    # 30 dB when developed, which is 8; a dermatoscope's light gives less. JPEG: from what messengers send to what
    # cameras store; by their quantisation tables, sixty of the ISIC archive have 70 to 98, most of them 70.
    Degradation.CLINICAL: Strengths(blur=(0.5, 2.5), noise=(2.0, 8.0), quality=(60, 95)),
    # Real-ESRGAN, section 4.1.
    Degradation.PAPER: Strengths(blur=(0.2, 3.0), noise=(1.0, 30.0), quality=(30, 95)),
}


def degrade(image: Image, how: Degradation, random: np.random.Generator, *, scale: int = SCALE) -> Image:
    """Reduce an image on each side, as if a poorer camera had taken it.

    Args:
        image: RGB uint8 [H, W, 3]; sides must be multiples of the scale.
        how: The model.
        random: Generator of what it draws, if anything.
        scale: Number of pixels of the original that become one, on each side.

    Returns:
        RGB uint8 [H / scale, W / scale, 3].
    """
    size = (image.shape[1] // scale, image.shape[0] // scale)
    if how is Degradation.AREA:
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    if how is Degradation.PLAIN:
        return _bicubic(image, size)
    strengths = STRENGTHS[how]
    blurred = cv2.GaussianBlur(image, (0, 0), random.uniform(*strengths.blur) * scale / SCALE)
    small = _bicubic(np.asarray(blurred, dtype=np.uint8), size)
    noisy = small + random.normal(0, random.uniform(*strengths.noise), small.shape)
    quality = int(random.integers(strengths.quality[0], strengths.quality[1] + 1))
    return _jpeg(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), quality)


def own_random(image: Image, seed: int = 0) -> np.random.Generator:
    """A generator seeded by the picture itself, so that it is degraded the same in any set and order."""
    return np.random.default_rng([seed, zlib.crc32(np.ascontiguousarray(image).data)])


def _bicubic(image: Image, size: tuple[int, int]) -> Image:
    return np.asarray(PillowImage.fromarray(image).resize(size, PillowImage.Resampling.BICUBIC), dtype=np.uint8)


def _jpeg(image: Image, quality: int) -> Image:
    _, coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)[..., ::-1])
