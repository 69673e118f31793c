"""How far a mask's outline is from the expert's."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from lesionnets.evaluation.figures.overlap import Mask


def boundary(predicted: Mask, truth: Mask) -> dict[str, float]:
    """Distances between the outlines of two boolean masks of the same shape; 0 is best.

    An outline is the pixels of a mask with one of four neighbours outside it; everything beyond the frame is
    outside. If both masks are empty, the distance is 0; if one is, it is the image's diagonal, because no outline
    can be farther.

    Returns:
        ``surface_distance``: mean symmetric surface distance (Heimann et al., IEEE TMI 28(8), 2009): the mean over
        the pixels of both outlines of the distance to the other outline. ``hausdorff_95``: the larger one of the
        two directions' 95 % quantiles. Both in pixels, and as a share of the image's diagonal with ``_share``.
    """
    diagonal = math.hypot(*truth.shape)
    outlines = [_outline(mask) for mask in (predicted, truth)]
    if all(len(outline) for outline in outlines):
        one, other = outlines
        there, back = _distances(one, other), _distances(other, one)
        mean = float(np.concatenate([there, back]).mean())
        far = float(max(np.percentile(there, 95), np.percentile(back, 95)))
    else:
        mean = far = diagonal if any(len(outline) for outline in outlines) else 0.0
    return {
        "surface_distance": mean,
        "surface_distance_share": mean / diagonal,
        "hausdorff_95": far,
        "hausdorff_95_share": far / diagonal,
    }


def _outline(mask: Mask) -> npt.NDArray[np.intp]:
    """Rows and columns of the outline's pixels, [N, 2]."""
    return np.argwhere(mask & ~binary_erosion(mask))


def _distances(from_pixels: npt.NDArray[np.intp], to_pixels: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Distance of each pixel to the nearest of the others, by a tree; a distance map would take seconds."""
    return np.asarray(KDTree(to_pixels, leafsize=32).query(from_pixels)[0], np.float64)
