"""How far two readers agree: their outlines, and their labels beyond chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.images.lesion import Mask, dice

AND = " + "
"""Separator between the labels of a diagnosis with several."""

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Cohen's kappa of two readers' labels of the same images (Cohen 1960): (p_o - p_e) / (1 - p_e), -1 to 1.

    Returns:
        None if it is undefined: without images, or if both gave every image the same label.

    Raises:
        ValueError: If the two have different numbers of images.
    """
    count = len(first)
    if count != len(second):
        raise ValueError("both readers' labels must be of the same images")
    if count == 0:
        return None
    ones, others = Counter(first), Counter(second)
    chance = sum(ones[label] * others[label] for label in ones) / count**2
    if chance == 1:
        return None
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / count
    return (observed - chance) / (1 - chance)


def boundary_distances(one: Mask, other: Mask) -> tuple[float, float] | None:
    """How far apart two outlines are: the mean symmetric and the 95 % Hausdorff distance, in pixels.

    For each pixel of an outline, the distance to the nearest pixel of the other is taken (Euclidean, exact). The
    results are the mean over both outlines together, and the larger of the two directions' 95th percentiles
    (linear), as in ``lesionnets evaluate``. A pixel belongs to the outline if one of its four neighbours is
    outside the mask or the picture.

    Returns:
        None if one mask is empty: there is no distance to nothing.
    """
    outlines = [_outline(mask) for mask in (one, other)]
    if not all(outline.any() for outline in outlines):
        return None
    first, second = (_distance_to(outline) for outline in outlines)
    there, back = second[outlines[0]], first[outlines[1]]
    farthest = max(np.percentile(there, 95), np.percentile(back, 95))
    return float(np.concatenate([there, back]).mean()), float(farthest)


def _outline(mask: Mask) -> npt.NDArray[np.bool_]:
    inside = cv2.erode(mask, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    found: npt.NDArray[np.bool_] = (mask != 0) & (inside == 0)
    return found


def _distance_to(outline: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Each pixel's distance to the nearest pixel of an outline that is not empty."""
    found = cv2.distanceTransform(np.where(outline, 0, 255).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(found, np.float32)


@dataclass(frozen=True)
class Overlap:
    """How far two masks agree.

    Attributes:
        dice: 0 to 1; 1 where both are empty.
        distance: Mean symmetric distance between the outlines, pixels; none if a mask is empty.
        hausdorff: 95 % Hausdorff distance, pixels; none in the same case.
    """

    dice: float
    distance: float | None
    hausdorff: float | None


def overlap(one: Mask, other: Mask) -> Overlap:
    """How far two masks [H, W] of one picture agree. Examining only the part around both gives the same result."""
    both = one | other
    rows, columns = np.flatnonzero(both.any(axis=1)), np.flatnonzero(both.any(axis=0))
    if not len(rows):
        return Overlap(1.0, None, None)
    part = tuple(slice(max(0, int(at[0]) - 1), int(at[-1]) + 2) for at in (rows, columns))
    first, second = np.ascontiguousarray(one[part]), np.ascontiguousarray(other[part])
    found = boundary_distances(first, second)
    return Overlap(dice(first, second), *(found if found is not None else (None, None)))


@dataclass(frozen=True)
class Pair:
    """Two readings of one image.

    Attributes:
        batch, index: The image.
        readers: Who read it.
        labels: What each called it, several labels joined by :data:`AND` in alphabetical order; none if nothing.
        masks: How far the masks agree; none if one of the two readings has no mask.
        label: The image's class: by adjudication, else the model's most probable; none if there is neither.
        source: Where it comes from.
    """

    batch: str
    index: int
    readers: tuple[str, str]
    labels: tuple[str | None, str | None]
    masks: Overlap | None
    label: str | None
    source: str


@dataclass(frozen=True)
class Group:
    """How far readers agree on some images.

    Attributes:
        name: What they have in common.
        images: Pairs of readings.
        dice, distance, hausdorff: Means over the pairs that have them; none if no pair has.
        called: Pairs for which both readers named a diagnosis.
        same: The share of these in which both named the same one.
        kappa: Cohen's kappa of these; none if it is undefined. Several pairs of readers are pooled.
    """

    name: str
    images: int
    dice: float | None
    distance: float | None
    hausdorff: float | None
    called: int
    same: float | None
    kappa: float | None


def group(name: str, pairs: Sequence[Pair], *, label: str | None = None) -> Group:
    """How far the readers of these pairs agree.

    Args:
        name: What they have in common.
        pairs: The pairs whose masks count.
        label: If given, kappa is about whether readers named this label.
    """
    named = [pair.labels for pair in pairs]
    both = [(one, other) for one, other in named if one is not None and other is not None]
    if label is not None:
        both = [(_names(label, one), _names(label, other)) for one, other in both]
    masks = [pair.masks for pair in pairs if pair.masks is not None]
    return Group(
        name,
        len(pairs),
        _mean(one.dice for one in masks),
        _mean(one.distance for one in masks),
        _mean(one.hausdorff for one in masks),
        len(both),
        _mean(float(one == other) for one, other in both),
        kappa([one for one, _ in both], [other for _, other in both]),
    )


def by_class(pairs: Sequence[Pair]) -> list[Group]:
    """A group for each class: the masks of its images, and, over all images, whether readers name it."""
    groups = []
    for label in sorted({pair.label for pair in pairs if pair.label is not None}):
        own = group(label, [pair for pair in pairs if pair.label == label])
        called = group(label, pairs, label=label)
        groups.append(replace(own, called=called.called, same=called.same, kappa=called.kappa))
    return groups


def by(pairs: Iterable[Pair], name: Callable[[Pair], str]) -> list[Group]:
    """A group for each name that the pairs have."""
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        found.setdefault(name(pair), []).append(pair)
    return [group(one, found[one]) for one in sorted(found)]


def _names(label: str, diagnosis: str) -> str:
    return label if label in diagnosis.split(AND) else "other"


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else None
