"""How large a DICOM image's pixels are, or at least their aspect ratio, according to its header.

No measure is better than a wrong one: a spacing that cannot be read, contradicts itself or is a known placeholder
is dropped, and a note says why.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset

_SPACINGS: dict[str, str | None] = {
    "PixelSpacing": None,
    "NominalScannedPixelSpacing": "spacing_nominal",
    "ImagerPixelSpacing": "spacing_imager",
}
"""Where pixel spacing is looked for, in this order, and the note that says where it was found."""
_COMMA = re.compile(r"([+-]?\d+),(\d+)([eE][+-]?\d+)?")
_SAME = 0.01
"""Relative difference of two proportions that is mere rounding."""

_LEAST = 1e-5
"""Least spacing in mm; light shows nothing smaller."""
Pair = tuple[float, float]


def proportions(dataset: Dataset) -> tuple[Pair | None, float | None, list[str]]:
    """(row, column) pixel spacing in mm; height over width of a pixel if only that is known and is not 1; notes.

    Notes are ``spacing_nominal`` and ``spacing_imager`` (where the spacing was found), ``spacing_decimal_comma``,
    and, if there is none, why: ``spacing_unusable``, ``spacing_placeholder``, ``spacing_contradicts_aspect``;
    ``pixel_aspect_unusable``.
    """
    spacing, notes = _spacing(dataset)
    stated = decimals(dataset, "PixelAspectRatio")
    ratio = _pair(stated)
    aspect = ratio[0] / ratio[1] if ratio else None
    if stated and (aspect is None or not 0.05 < aspect < 20):
        return spacing, None, [*notes, "pixel_aspect_unusable"]
    if spacing is not None and aspect is not None and abs(spacing[0] / spacing[1] / aspect - 1) > _SAME:
        return None, None, ["spacing_contradicts_aspect"]
    if spacing is not None or aspect is None or abs(aspect - 1) <= 1e-6:
        return spacing, None, notes
    return None, aspect, [*notes, "pixel_aspect_ratio"]


def _spacing(dataset: Dataset) -> tuple[Pair | None, list[str]]:
    unusable: list[str] = []
    for keyword, note in _SPACINGS.items():
        values = decimals(dataset, keyword)
        if not values:
            continue
        pair = _pair(values)
        if pair is None or min(pair) < _LEAST:
            unusable = unusable or ["spacing_unusable"]
        elif pair == (1.0, 1.0):  # exporters that know no spacing write this: no dermatoscope has pixels of 1 mm
            unusable = unusable or ["spacing_placeholder"]
        else:
            comma = any("," in part for part in _parts(dataset, keyword))
            return pair, [*([note] if note else []), *(["spacing_decimal_comma"] if comma else [])]
    return None, unusable


def _pair(values: list[str]) -> Pair | None:
    """Two lengths between 0 and 1000, both excluded; none for anything else."""
    try:
        row, column = map(float, values)
    except (ValueError, OverflowError):
        return None
    return (row, column) if all(math.isfinite(one) and 0 < one < 1000 for one in (row, column)) else None


def decimals(dataset: Dataset, keyword: str) -> list[str]:
    """The values of an element as decimal strings (PS3.5, 6.2, DS), whatever its VR, quotes and decimal signs.

    Returns:
        All of them; what is no number is returned as it was found.
    """
    return [_COMMA.sub(r"\1.\2\3", part) if _COMMA.fullmatch(part) else part for part in _parts(dataset, keyword)]


def _parts(dataset: Dataset, keyword: str) -> list[str]:
    try:
        value: Any = dataset.get(keyword)
    except Exception:  # a value that cannot be converted stays as it was written
        tag = getattr(dataset.get_item(keyword), "value", None)
        value = tag.decode("ascii", "replace") if isinstance(tag, bytes) else None
    if value is None:
        return []
    several = value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else [value]
    parts = [part.strip(" \"'\0") for one in several for part in str(one).split("\\")]
    return parts if any(parts) else []
