"""Crops around lesions, for super-resolution: where the detail that matters is."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.errors import UsageError
from lesionnets.data.isic import Image, Sample, read_image, read_mask


def lesion_box(mask: npt.NDArray[np.uint8], *, margin: float = 0.1, multiple: int = 4) -> tuple[slice, slice]:
    """Rows and columns of the box around a mask, widened on each side and of sides divisible by ``multiple``.

    Args:
        mask: Lesion mask [H, W], lesion where > 127. An empty mask gives the whole image.
        margin: Share of the box's longer side that is added on each side, as far as the image goes.
        multiple: Both sides become a multiple of it, by cutting at the bottom and the right.
    """
    rows, columns = np.nonzero(mask > 127)
    height, width = mask.shape
    if rows.size == 0:
        rows, columns = np.array([0, height - 1]), np.array([0, width - 1])
    extra = round(margin * max(np.ptp(rows) + 1, np.ptp(columns) + 1))
    top, left = max(int(rows.min()) - extra, 0), max(int(columns.min()) - extra, 0)
    bottom, right = min(int(rows.max()) + 1 + extra, height), min(int(columns.max()) + 1 + extra, width)
    bottom -= (bottom - top) % multiple
    right -= (right - left) % multiple
    return slice(top, bottom), slice(left, right)


def mask_of(sample: Sample, image: Image) -> npt.NDArray[np.uint8]:
    """A sample's mask at the size of its image, as masks may be finer or coarser; uint8 [H, W], 0 or 255.

    Raises:
        UsageError: Where the sample has no mask, it cannot be decoded, or it has other proportions.
    """
    if sample.mask is None:
        raise UsageError(f"{sample.image} has no mask")
    mask = read_mask(sample.mask)
    (rows, columns), (height, width) = mask.shape, image.shape[:2]
    if mask.shape == (height, width):
        return mask
    # A pixel more or less on a side comes from rounding.
    if abs(rows * width - columns * height) > max(height, width) + max(rows, columns):
        raise UsageError(f"{sample.mask} is {columns} x {rows} pixels, its image {width} x {height}")
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def load_lesion_crops(samples: Iterable[Sample], *, limit: int | None = None, least: int = 64) -> list[Image]:
    """Read the lesion regions of images that have masks.

    Args:
        samples: Images; those without a mask are passed over.
        limit: At most so many crops.
        least: Crops with a shorter side are left out, pixels.

    Raises:
        UsageError: Where an image or a mask cannot be decoded, they do not fit each other, or no crop is left.
    """
    crops: list[Image] = []
    for sample in samples:
        if sample.mask is None:
            continue
        image = read_image(sample.image)
        rows, columns = lesion_box(mask_of(sample, image))
        crop = np.ascontiguousarray(image[rows, columns])
        if min(crop.shape[:2]) >= least:
            crops.append(crop)
        if len(crops) == limit:
            return crops
    if not crops:
        raise UsageError(f"there is no image with a mask whose lesion measures {least} pixels")
    return crops
