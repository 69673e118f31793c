"""What a border map says about a lesion's outline, sector by sector: how sharp and how irregular it is."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from dermbatch.images.fitting import fit
from dermbatch.images.lesion import Mask
from dermbatch.records.outcome import BorderMeasures

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

SECTORS = 8
"""Number of sectors, of 45 degrees as in the ABCD rule of dermatoscopy; the first is at the top, then
clockwise."""

_ANGLES = 360
_BAND = 0.08  # of the lesion's equivalent diameter: width of the bands inside and outside of the outline
_SMOOTH = 45  # degrees over which the outline is averaged to see how it deviates


def border_measures(border: Pixels, mask: Mask) -> BorderMeasures | None:
    """Measures of a border map around a lesion.

    Args:
        border: [h, w] uint8, probability x 255 by what tells borders.
        mask: [H, W] uint8, 255 where lesion.

    Returns:
        None where there is no lesion, or one of a few pixels at the map's size.
    """
    inside = fit(mask, (border.shape[0], border.shape[1])) > 127
    area = int(inside.sum())
    if area < 4 * SECTORS:
        return None
    outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    line = max(outlines, key=len)[:, 0, :].astype(np.float64)
    rows, columns = np.nonzero(inside)
    centre = np.array([columns.mean(), rows.mean()])
    sectors = _sectors(inside.shape, centre)
    band = max(1, round(_BAND * math.sqrt(4 * area / math.pi)))
    return BorderMeasures(
        sharpness=_sharpness(border, inside, sectors, band), irregularity=_irregularity(line - centre)
    )


def _sectors(shape: tuple[int, ...], centre: Floats) -> NDArray[np.int64]:
    """The sector of every pixel, [h, w]."""
    rows, columns = np.indices(shape[:2])
    clockwise = np.degrees(np.arctan2(columns - centre[0], centre[1] - rows))
    return _sector_of(clockwise)


def _sector_of(clockwise: Floats) -> NDArray[np.int64]:
    width = 360 / SECTORS
    return np.asarray((clockwise + width / 2) % 360 // width, np.int64)


def _sharpness(
    border: Pixels, inside: NDArray[np.bool_], sectors: NDArray[np.int64], band: int
) -> tuple[float, ...]:
    """Mean of the map in a band inside of the outline less that outside, 0 to 1."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    lesion = inside.astype(np.uint8)
    within, around = lesion - cv2.erode(lesion, kernel), cv2.dilate(lesion, kernel) - lesion
    found = []
    for sector in range(SECTORS):
        here = sectors == sector
        parts = [border[here & (one > 0)] for one in (within, around)]
        means = [float(part.mean()) / 255 if part.size else 0.0 for part in parts]
        found.append(round(max(means[0] - means[1], 0.0), 4) if parts[1].size else 0.0)
    return tuple(found)


def _irregularity(line: Floats) -> tuple[float, ...]:
    """How far the outline's radius strays from its mean over 45 degrees: root mean square, of the mean radius."""
    clockwise = np.degrees(np.arctan2(line[:, 0], -line[:, 1])) % 360
    radius = np.hypot(line[:, 0], line[:, 1])
    order = np.argsort(clockwise)
    angles = np.arange(_ANGLES) * 360 / _ANGLES
    around = np.interp(angles, clockwise[order], radius[order], period=360)
    kernel = np.ones(_SMOOTH) / _SMOOTH
    smooth = np.convolve(np.concatenate([around[-_SMOOTH:], around, around[:_SMOOTH]]), kernel, "same")
    strays = (around - smooth[_SMOOTH:-_SMOOTH]) / max(float(radius.mean()), 1e-6)
    sectors = _sector_of(angles)
    return tuple(round(float(np.sqrt((strays[sectors == n] ** 2).mean())), 4) for n in range(SECTORS))
