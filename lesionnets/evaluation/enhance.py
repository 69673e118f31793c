"""How much detail super-resolution brings back: PSNR and SSIM against the true image, beside bicubic's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image as PillowImage
from skimage.metrics import structural_similarity

from lesionnets.data.degradations import SCALE, Degradation, Image, degrade, own_random
from lesionnets.evaluation.figures.intervals import Figure, bootstrap_mean


def psnr(one: Image, other: Image) -> float:
    """Peak signal-to-noise ratio of two uint8 images of one shape, in dB; infinite where they are equal."""
    error = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(one: Image, other: Image) -> float:
    """Structural similarity, -1 to 1, mean over the colours (Wang et al., IEEE TIP 2004: Gaussian window, 1.5).

    Both sides must have 11 pixels, the window's.
    """
    found = structural_similarity(  # type: ignore[no-untyped-call]
        one, other, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(found)


def bicubic(image: Image) -> Image:
    """x4 by bicubic interpolation."""
    size = (image.shape[1] * SCALE, image.shape[0] * SCALE)
    return np.asarray(PillowImage.fromarray(image).resize(size, PillowImage.Resampling.BICUBIC), dtype=np.uint8)


def reduced_error(enhanced: Image, small: Image) -> float:
    """How far a picture that was enhanced and is reduced again is from what it came from: mean over 255 levels.

    Reduced by bicubic interpolation with antialiasing. What an enhancer adds shall lie within what the small
    picture leaves open: this is near 0 where it makes up nothing, and near the noise where it takes that away.
    """
    size = (small.shape[1], small.shape[0])
    again = np.asarray(PillowImage.fromarray(enhanced).resize(size, PillowImage.Resampling.BICUBIC), np.int16)
    return float(np.abs(again - small).mean())


def measure(
    enhance: Callable[[Image], Image],
    images: Sequence[Image],
    *,
    how: Degradation = Degradation.PLAIN,
    similarity: bool = True,
    rows: list[dict[str, object]] | None = None,
) -> dict[str, Figure]:
    """Degrade each image, enhance it again and compare with what it was.

    Args:
        enhance: From uint8 [h, w, 3] to uint8 [4h, 4w, 3].
        images: The truth; sides that are no multiple of 4 lose up to 3 pixels.
        how: What was done to them; each image draws its own strengths, the same ones every time.
        similarity: Measure SSIM too, which takes longer than a small network, and :func:`reduced_error`.
        rows: Where a row of these is added for each image.

    Returns:
        ``psnr``, ``psnr_bicubic`` and ``gain`` in dB; ``ssim``, ``ssim_bicubic`` and ``ssim_gain``;
        ``reduced_error`` and ``reduced_error_bicubic``. Each a mean over the images with its 95 % bootstrap
        interval.
    """
    scores: dict[str, list[float]] = {}
    measures = {"psnr": psnr} | ({"ssim": ssim} if similarity else {})
    for image in images:
        height, width = (side - side % SCALE for side in image.shape[:2])
        truth = np.ascontiguousarray(image[:height, :width])
        small = degrade(truth, how, own_random(truth))
        ours, plain = enhance(small), bicubic(small)
        for name, score in measures.items():
            one, other = score(ours, truth), score(plain, truth)
            gain = "gain" if name == "psnr" else f"{name}_gain"
            for key, value in ((name, one), (f"{name}_bicubic", other), (gain, one - other)):
                scores.setdefault(key, []).append(value)
        if similarity:
            scores.setdefault("reduced_error", []).append(reduced_error(ours, small))
            scores.setdefault("reduced_error_bicubic", []).append(reduced_error(plain, small))
    if rows is not None:
        rows += [dict(zip(scores, row, strict=True)) for row in zip(*scores.values(), strict=True)]
    return {name: bootstrap_mean(values) for name, values in scores.items()}
