"""How a picture of fewer pixels came about: what enhancement is trained to undo and measured on.

SkinSegmentSRGAN (section 4.1) makes its pairs "by downsampling the original images and applying various
degradation operations to simulate real-world conditions" and names neither operations nor strengths. Here are
three models with names, all of which reduce by four on each side:

- ``plain``: bicubic with antialiasing, what papers on super-resolution report on.
- ``area``: the mean of 4 x 4 pixels, as a sensor of larger pixels sees.
- ``clinical``: in the order in which a camera does it (Wang et al., "Real-ESRGAN", ICCVW 2021, section 3.1, first
  order): blur, bicubic reduction, noise, JPEG. Strengths are drawn for each picture from the ranges below. They
  are those of usable photographs; Real-ESRGAN's own go much further (blur to 3, noise to 30, JPEG down to 30).
"""

from __future__ import annotations

import zlib
from enum import StrEnum

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

Image = npt.NDArray[np.uint8]
"""RGB, uint8 [H, W, 3]."""

SCALE = 4

BLUR = (0.5, 2.5)
"""Standard deviation of the lens' and the hand's Gaussian blur, pixels of the original: up to five eighths of a
pixel of the small picture. More would be seen to be out of focus and taken again."""

NOISE = (2.0, 8.0)
"""Standard deviation of the sensor's noise, of 255. The real photographs of the DND benchmark (Plötz and Roth,
CVPR 2017), taken at high sensitivity, have about 30 dB when developed, which is 8; a dermatoscope's light gives
less."""

QUALITY = (60, 95)
"""JPEG quality: from what messengers send to what cameras store. By their quantisation tables, sixty of the ISIC
archive have 70 to 98, most of them 70."""


class Degradation(StrEnum):
    """Name of a model; see the module."""

    PLAIN = "plain"
    AREA = "area"
    CLINICAL = "clinical"


def degrade(image: Image, how: Degradation, random: np.random.Generator) -> Image:
    """A quarter of an image on each side, as a poorer camera had taken it.

    Args:
        image: RGB uint8 [H, W, 3]; sides must be multiples of 4.
        how: The model; only ``clinical`` draws random numbers.
        random: Their source.

    Returns:
        RGB uint8 [H / 4, W / 4, 3].
    """
    if how is Degradation.AREA:
        size = (image.shape[1] // SCALE, image.shape[0] // SCALE)
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    if how is Degradation.PLAIN:
        return _bicubic(image)
    blurred = cv2.GaussianBlur(image, (0, 0), random.uniform(*BLUR))
    small = _bicubic(np.asarray(blurred, dtype=np.uint8))
    noisy = small + random.normal(0, random.uniform(*NOISE), small.shape)
    return _jpeg(
        np.clip(np.rint(noisy), 0, 255).astype(np.uint8), int(random.integers(QUALITY[0], QUALITY[1] + 1))
    )


def own_random(image: Image, seed: int = 0) -> np.random.Generator:
    """A generator that the picture itself seeds: it is degraded alike in whatever set or order it comes."""
    return np.random.default_rng([seed, zlib.crc32(np.ascontiguousarray(image).data)])


def _bicubic(image: Image) -> Image:
    size = (image.shape[1] // SCALE, image.shape[0] // SCALE)
    return np.asarray(PillowImage.fromarray(image).resize(size, PillowImage.Resampling.BICUBIC), dtype=np.uint8)


def _jpeg(image: Image, quality: int) -> Image:
    _, coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)[..., ::-1])
