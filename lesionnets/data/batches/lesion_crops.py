"""Crops around lesions for super-resolution, where the detail matters."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from dermbatch.errors import UsageError
from lesionnets.data.sources.isic import Image, Sample, read_pair


def lesion_box(mask: npt.NDArray[np.uint8], *, margin: float = 0.1, multiple: int = 4) -> tuple[slice, slice]:
    """Rows and columns of the box around a mask, with a margin, and with sides divisible by ``multiple``.

    Args:
        mask: Lesion mask [H, W], lesion where > 127. An empty mask gives the whole image.
        margin: Share of the box's longer side that is added on each side, as far as the image goes.
        multiple: Both sides become a multiple of this, by cutting at the bottom and at the right.
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


def load_lesion_crops(samples: Iterable[Sample], *, limit: int | None = None, least: int = 64) -> list[Image]:
    """Read the lesion regions of images that have masks.

    Args:
        samples: Images; those without a mask are skipped.
        limit: At most so many crops.
        least: Least side in pixels; smaller crops are left out.

    Raises:
        UsageError: If an image and its mask do not fit or cannot be decoded, or no crop is left.
    """
    return [crop for _, crop in named_lesion_crops(samples, limit=limit, least=least)]


def named_lesion_crops(
    samples: Iterable[Sample], *, limit: int | None = None, least: int = 64
) -> list[tuple[str, Image]]:
    """The same as :func:`load_lesion_crops`, each with its image's id."""
    crops: list[tuple[str, Image]] = []
    for sample in samples:
        if sample.mask is None:
            continue
        image, mask = read_pair(sample)
        rows, columns = lesion_box(mask)
        crop = np.ascontiguousarray(image[rows, columns])
        if min(crop.shape[:2]) >= least:
            crops.append((sample.image_id, crop))
        if len(crops) == limit:
            return crops
    if not crops:
        raise UsageError(
            f"no image has a mask whose lesion measures at least {least} pixels; "
            "give larger images, or masks for them"
        )
    return crops
