"""How far readers agree, reckoned by hand: by reader, class and source."""

import numpy as np
import pytest

from dermbatch.review.agreement import Overlap, Pair, boundary_distances, by, by_class, group, overlap


def pair(index, labels, dice=None, distance=None, *, readers=("ada", "bo"), label="nevus", source="a"):
    masks = None if dice is None else Overlap(dice, distance, None if distance is None else 2 * distance)
    return Pair("b", index, readers, labels, masks, label, source)


FOUND = [
    pair(0, ("melanoma", "melanoma"), 1.0, 0.0, label="melanoma"),
    pair(1, ("melanoma", "nevus"), 0.5, 4.0, label="melanoma"),
    pair(2, ("nevus", "nevus"), 0.9, 1.0),
    pair(3, ("nevus", "nevus"), 0.8, None, source="b"),
    pair(4, (None, "nevus"), None, source="b"),
]


def test_all_by_hand():
    found = group("all", FOUND)
    assert (found.images, found.called) == (5, 4)
    assert found.dice == pytest.approx((1 + 0.5 + 0.9 + 0.8) / 4)
    assert found.distance == pytest.approx((0 + 4 + 1) / 3)
    assert found.hausdorff == pytest.approx((0 + 8 + 2) / 3)
    assert found.same == 0.75
    # ada names melanoma 2 of 4 times, bo 1 of 4: chance 2/4 * 1/4 + 2/4 * 3/4 = 0.5
    assert found.kappa == pytest.approx((0.75 - 0.5) / (1 - 0.5))


def test_by_source_and_reader():
    first, second = by(FOUND, lambda one: one.source)
    assert (first.name, first.images, second.name, second.images) == ("a", 3, "b", 2)
    assert first.dice == pytest.approx(0.8)
    assert second.dice == pytest.approx(0.8)
    assert second.kappa is None  # both named one and the same
    (only,) = by(FOUND, lambda one: " and ".join(one.readers))
    assert (only.name, only.images) == ("ada and bo", 5)


def test_by_class_masks_are_of_its_images_and_kappa_is_against_the_rest():
    several = [*FOUND, pair(5, ("melanoma + nevus", "melanoma"), 0.7, 3.0, label="melanoma")]
    melanoma, nevus = by_class(several)
    assert (melanoma.name, melanoma.images, nevus.images) == ("melanoma", 3, 3)
    assert melanoma.dice == pytest.approx((1 + 0.5 + 0.7) / 3)
    # Melanoma: ada 3 of 5, bo 2 of 5, the same in 4: chance 3/5 * 2/5 + 2/5 * 3/5 = 0.48
    assert melanoma.kappa == pytest.approx((0.8 - 0.48) / (1 - 0.48))
    # Nevus: ada 3 of 5 (2, 3, 5), bo 3 of 5 (1, 2, 3), the same in 0, 2, 3: chance 0.36 + 0.16
    assert nevus.kappa == pytest.approx((0.6 - 0.52) / (1 - 0.52))


def test_nothing_agrees_with_nothing():
    found = group("none", [])
    assert (found.images, found.dice, found.same, found.kappa) == (0, None, None, None)
    assert by_class([]) == []


def test_the_part_around_both_masks_tells_all():
    drawing = np.random.default_rng(5)
    for place in (0, 3, 40):  # also where a mask reaches the border
        one, other = (np.zeros((60, 70), np.uint8) for _ in range(2))
        for mask in (one, other):
            mask[place : place + 15, place : place + 20] = (drawing.random((15, 20)) > 0.4) * 255
        found = overlap(one, other)
        assert (found.distance, found.hausdorff) == pytest.approx(boundary_distances(one, other))
        both = np.logical_and(one, other).sum()
        assert found.dice == pytest.approx(2 * both / ((one > 0).sum() + (other > 0).sum()))
    empty = np.zeros((60, 70), np.uint8)
    assert overlap(empty, empty) == Overlap(1.0, None, None)
    assert overlap(one, empty) == Overlap(0.0, None, None)
