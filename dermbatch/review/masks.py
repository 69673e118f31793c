"""Masks as COCO's run lengths, and back without loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dermbatch.images.lesion import Mask


def runs(mask: npt.NDArray[np.uint8] | npt.NDArray[np.bool_]) -> list[int]:
    """COCO's run lengths of a mask [H, W], not 0 where lesion: down the columns, of background first."""
    flat = (np.asarray(mask) != 0).ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0], edges, [len(flat)]])
    counts: list[int] = np.diff(bounds).tolist()
    return [0, *counts] if len(flat) and flat[0] else counts


def checked(counts: Sequence[int], height: int, width: int) -> npt.NDArray[np.int64]:
    """Run lengths checked to be a mask of this size, int64 [N], without making the mask.

    Raises:
        ValueError: As for :func:`of_runs`.
    """
    no_mask = ValueError(f"these runs are no mask of {height} x {width} pixels")
    try:
        lengths = np.asarray(counts, np.int64)
    except OverflowError:
        raise no_mask from None
    # No run is longer than the whole: otherwise a sum that overflows may come out right.
    if lengths.ndim != 1 or (lengths[1:] < 1).any() or (lengths < 0).any() or (lengths > height * width).any():
        raise no_mask
    if lengths.sum() != height * width:
        raise no_mask
    return lengths


def of_runs(counts: Sequence[int], height: int, width: int) -> Mask:
    """The mask that COCO's run lengths describe, uint8 [H, W], 0 or 255.

    Raises:
        ValueError: If they do not add up to the size, or one other than the first is less than 1.
    """
    lengths = checked(counts, height, width)
    values = np.zeros(len(lengths), np.uint8)
    values[1::2] = 255
    return np.ascontiguousarray(np.repeat(values, lengths).reshape(width, height).T)
