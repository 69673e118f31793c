"""Groups of images with figures of their own: by how faint the lesion is, by part of the archive."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum

from lesionnets.data.sources.folds import source_of
from lesionnets.evaluation.figures.intervals import Figure, bootstrap_mean

CONTRASTS = (10, 20, 50)
"""Upper limits of the strata of contrast: CIELAB distances of a lesion's mean colour from the skin around it."""


class Strata(StrEnum):
    """How images can be grouped."""

    CONTRAST = "contrast"
    SOURCE = "source"


Row = Mapping[str, object]
"""An image: its ``image_id``, perhaps its ``contrast``, and its measures."""


def stratum(row: Row, by: Strata) -> str | None:
    """The ending of the figures of an image's group; None if it is in no group.

    ``contrast_below_10``, ``contrast_10_to_20`` and so on, ``contrast_above_50``; ``source_0`` to ``source_4``, of
    images whose names end in the archive's numbers, such as ``ISIC_0012345``.
    """
    if by is Strata.SOURCE:
        key = str(row["image_id"])
        numbered = key.startswith("ISIC_") and key.removeprefix("ISIC_").isdecimal()
        return f"source_{source_of(key)}" if numbered else None
    value = float(str(row.get("contrast", "nan")))
    if math.isnan(value):
        return None
    for low, high in zip((0, *CONTRASTS), CONTRASTS, strict=False):
        if value < high:
            return f"contrast_{low}_to_{high}" if low else f"contrast_below_{high}"
    return f"contrast_above_{CONTRASTS[-1]}"


def with_source(row: Row) -> Row:
    """An image's row with its ``source``, 0 to 4, after its name; empty if that has no number of the archive."""
    source = (stratum(row, Strata.SOURCE) or "").removeprefix("source_")
    return {"image_id": row["image_id"], "source": source} | dict(row)


def grouped(rows: Sequence[Row], by: Sequence[Strata]) -> dict[str, list[Row]]:
    """The images of each group that occurs, with the groups in order."""
    found: dict[str, list[Row]] = {}
    for kind in by:
        for row in rows:
            if (name := stratum(row, kind)) is not None:
                found.setdefault(name, []).append(row)
    order = {f"contrast_{end}": i for i, end in enumerate(("below_10", "10_to_20", "20_to_50", "above_50"))}
    return dict(sorted(found.items(), key=lambda one: (order.get(one[0], len(order)), one[0])))


def means(rows: Sequence[Row], by: Sequence[Strata], names: Sequence[str]) -> dict[str, Figure]:
    """``NAME_STRATUM`` for measures that are means over images, each with its 95 % interval.

    Args:
        rows: The images.
        by: How they are grouped.
        names: Names of the measures; images that lack one are skipped.
    """
    found = {}
    for end, group in grouped(rows, by).items():
        for name in names:
            values = [float(str(row[name])) for row in group if row.get(name) is not None]
            if values:
                found[f"{name}_{end}"] = bootstrap_mean(values)
    return found


def counts(rows: Sequence[Row], by: Sequence[Strata]) -> dict[str, int]:
    """Number of images of each group."""
    return {name: len(group) for name, group in grouped(rows, by).items()}
