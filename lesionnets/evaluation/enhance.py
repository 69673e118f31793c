"""How much detail super-resolution recovers: PSNR and SSIM against the true image, and those of bicubic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image as PillowImage
from skimage.metrics import structural_similarity

from dermbatch.errors import UsageError
from dermbatch.images.fitting import halved
from lesionnets.data.degradations import SCALE, Degradation, Image, degrade, own_random
from lesionnets.evaluation.figures.intervals import Figure, bootstrap_mean
from lesionnets.evaluation.models.predictors import LoadedModel


def psnr(one: Image, other: Image) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 images of the same shape; infinite if they are equal."""
    error = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(one: Image, other: Image) -> float:
    """Structural similarity, -1 to 1, mean over the colours (Wang et al., IEEE TIP 2004; Gaussian window of 1.5).

    Both sides must have at least 11 pixels, the size of the window.
    """
    found = structural_similarity(  # type: ignore[no-untyped-call]
        one, other, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(found)


def bicubic(image: Image, scale: int = SCALE) -> Image:
    """Enlarge by bicubic interpolation."""
    size = (image.shape[1] * scale, image.shape[0] * scale)
    return np.asarray(PillowImage.fromarray(image).resize(size, PillowImage.Resampling.BICUBIC), dtype=np.uint8)


def reduced_error(enhanced: Image, small: Image) -> float:
    """How far an enhanced picture, reduced again, is from the small picture it was made of: mean in levels of 255.

    It is reduced by bicubic interpolation with antialiasing. An enhancer should add only what the small picture
    leaves open. Then this is near 0, or near the noise if the enhancer removes that.
    """
    size = (small.shape[1], small.shape[0])
    again = np.asarray(PillowImage.fromarray(enhanced).resize(size, PillowImage.Resampling.BICUBIC), np.int16)
    return float(np.abs(again - small).mean())


def enlarging(model: LoadedModel, scale: int | None) -> tuple[Callable[[Image], Image], int]:
    """A model as a function of a picture that enlarges ``scale`` times, and the scale.

    Args:
        model: An enhance model.
        scale: What it enlarges, or a half or a quarter of that, to which what it makes is halved; None: the first.

    Raises:
        UsageError: If it is neither.
    """
    own = made = int(model.number("scale", SCALE))
    count = 0
    while scale is not None and made > scale and made % 2 == 0:
        made, count = made // 2, count + 1
    if scale not in (None, made):
        raise UsageError(f"{model.name} enlarges {own} times; --scale takes that, or that halved until it is odd")

    def enhance(image: Image) -> Image:
        enhanced = model(IMAGE=image)["ENHANCED"]
        for _ in range(count):
            enhanced = halved(enhanced)
        return enhanced

    return enhance, made


def measure(
    enhance: Callable[[Image], Image],
    images: Sequence[Image],
    *,
    how: Degradation = Degradation.PLAIN,
    scale: int = SCALE,
    similarity: bool = True,
    rows: list[dict[str, object]] | None = None,
) -> dict[str, Figure]:
    """Degrade each image, enhance it and compare it with the original.

    Args:
        enhance: Function from uint8 [h, w, 3] to uint8 [scale h, scale w, 3].
        images: The originals; sides that are not multiples of the scale lose what is over.
        how: How they are degraded; each image draws its own strengths, the same every time.
        scale: By what they are reduced and enlarged on each side.
        similarity: Also measure SSIM, which takes longer than a small network, and :func:`reduced_error`.
        rows: If given, a row of these is added to it for each image.

    Returns:
        ``psnr``, ``psnr_bicubic`` and ``gain`` in dB; ``ssim``, ``ssim_bicubic`` and ``ssim_gain``;
        ``reduced_error`` and ``reduced_error_bicubic``. Each a mean over the images with its 95 % bootstrap
        interval.
    """
    scores: dict[str, list[float]] = {}
    measures = {"psnr": psnr} | ({"ssim": ssim} if similarity else {})
    for image in images:
        height, width = (side - side % scale for side in image.shape[:2])
        truth = np.ascontiguousarray(image[:height, :width])
        small = degrade(truth, how, own_random(truth), scale=scale)
        ours, plain = enhance(small), bicubic(small, scale)
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
