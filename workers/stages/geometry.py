"""Measures of the lesion mask: size, outline, symmetry; in mm where the image states its pixel spacing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dermbatch.images.lesion import Contour, Mask, bounding_box
from dermbatch.records.outcome import BoundingBox, ColourStatistics, LesionGeometry

Floats = NDArray[np.float64]

_FOLD_SIDE = 128  # pixels of the longer side at which a lesion is folded: asymmetry does not depend on fine detail


def measure(
    mask: Mask,
    contours: Sequence[Contour],
    colour: ColourStatistics,
    spacing_mm: tuple[float, float] | None = None,
    *,
    components: int,
    aspect: float = 1.0,
) -> LesionGeometry:
    """Measure the lesions of a clean mask.

    Where pixels are not square, the shape measures (asymmetry, border irregularity) are those of the true shape;
    the measures in pixels are always those of the grid.

    Args:
        mask: [H, W] uint8, 255 where lesion, from :func:`dermbatch.images.lesion.clean`.
        contours: Its outlines, at least one.
        colour: The lesion's colours.
        spacing_mm: Distance of rows and of columns in mm.
        components: Lesions that were found, of which the mask may hold fewer.
        aspect: Height over width of a pixel; ignored if the spacing is known.
    """
    top, left, bottom, right = bounding_box(contours)
    inside = mask[top:bottom, left:right]
    moments = cv2.moments(inside, binaryImage=True)
    area = round(moments["m00"])
    row_mm, column_mm = spacing_mm or (aspect, 1.0)
    perimeter_mm = sum(perimeter(contour, row_mm, column_mm) for contour in contours)
    area_mm2 = area * row_mm * column_mm
    known = spacing_mm is not None
    return LesionGeometry(
        area_px=area,
        perimeter_px=sum(perimeter(contour) for contour in contours),
        bounding_box=BoundingBox(top=top, left=left, bottom=bottom, right=right),
        centroid=(top + moments["m01"] / area, left + moments["m10"] / area),
        diameter_px=diameter(contours),
        equivalent_diameter_px=math.sqrt(4 * area / math.pi),
        asymmetry=asymmetry(inside, row_mm / column_mm),
        border_irregularity=perimeter_mm**2 / (4 * math.pi * area_mm2),
        area_mm2=area_mm2 if known else None,
        perimeter_mm=perimeter_mm if known else None,
        diameter_mm=diameter(contours, row_mm, column_mm) if known else None,
        area_fraction=area / mask.size,
        components=components,
        colour=colour,
    )


def perimeter(contour: Contour, row_mm: float = 1.0, column_mm: float = 1.0) -> float:
    """Length of an outline, without the bias of a chain of pixel steps.

    Steps along the grid count 0.980, diagonal ones 1.406, and each change of direction takes off 0.091
    (Vossepoel & Smeulders 1982, Vector code probability and metrication error). The chain runs through the pixels'
    centres; the outline lies half a pixel further out, which adds pi for any closed curve.

    Args:
        contour: Outline from :func:`dermbatch.images.lesion.clean`.
        row_mm: Distance of two rows.
        column_mm: Distance of two columns.

    Returns:
        Length in the unit of the distances; pixels where they are 1.
    """
    points = contour[:, 0, :].astype(np.int64)
    steps = np.roll(points, -1, axis=0) - points
    steps = steps[np.any(steps != 0, axis=1)]
    horizontal = int(np.count_nonzero(steps[:, 1] == 0))
    vertical = int(np.count_nonzero(steps[:, 0] == 0))
    diagonal = len(steps) - horizontal - vertical
    corners = int(np.count_nonzero(np.any(steps != np.roll(steps, -1, axis=0), axis=1)))
    mean_mm = (row_mm + column_mm) / 2
    return (
        0.980 * (horizontal * column_mm + vertical * row_mm)
        + 1.406 / math.sqrt(2) * diagonal * math.hypot(row_mm, column_mm)
        - 0.091 * corners * mean_mm
        + math.pi * mean_mm
    )


def diameter(contours: Sequence[Contour], row_mm: float = 1.0, column_mm: float = 1.0) -> float:
    """Largest distance between two points of the lesions' outlines (Feret), pixels taken as small rectangles.

    Args and unit as for :func:`perimeter`.
    """
    hull = cv2.convexHull(np.concatenate(contours))[:, 0, :].astype(np.float32)
    corners = np.concatenate([hull + np.array(shift, np.float32) for shift in _CORNERS])
    outer: Floats = cv2.convexHull(corners)[:, 0, :].astype(np.float64) * (column_mm, row_mm)
    apart = outer[:, None, :] - outer[None, :, :]
    return math.sqrt(float(np.max(np.einsum("ijk,ijk->ij", apart, apart))))


_CORNERS = ((-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5))


def asymmetry(mask: Mask, aspect: float = 1.0) -> float:
    """How little of the lesion falls on itself when it is folded over its two main axes.

    Args:
        mask: [h, w] uint8, 255 where lesion, cut to the lesion.
        aspect: Height over width of a pixel.

    Returns:
        Mean over both axes of the share of the area that does not overlap; 0 symmetric, towards 1 not at all.
    """
    height, width = mask.shape
    scale = min(1.0, _FOLD_SIDE / max(height * aspect, width))
    size = max(1, round(width * scale)), max(1, round(height * aspect * scale))
    small = np.pad(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), 1)
    moments = cv2.moments(small)
    column, row = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    angle = 0.5 * math.atan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"])
    # Turn the main axis level with the centroid in the middle of a frame that holds the lesion at any angle.
    reach = math.ceil(math.hypot(*small.shape)) + 1
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array(
        [[cos, sin, reach - cos * column - sin * row], [-sin, cos, reach + sin * column - cos * row]], np.float64
    )
    level = cv2.warpAffine(small, turn, (2 * reach + 1, 2 * reach + 1), flags=cv2.INTER_LINEAR).astype(np.float32)
    total = float(level.sum())
    folds = (float(np.minimum(level, level[::-1]).sum()), float(np.minimum(level, level[:, ::-1]).sum()))
    return max(0.0, 1 - sum(folds) / (2 * total))
