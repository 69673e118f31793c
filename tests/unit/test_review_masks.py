"""Masks out and in without loss, and how far two of them agree; by hand, and compared with COCO's own code."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dermbatch.images.lesion import dice
from dermbatch.review.agreement import boundary_distances, kappa
from dermbatch.review.masks import of_runs, runs

MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.sampled_from([0, 255]))


def drawn(*rows):
    return np.array([[255 if pixel == "#" else 0 for pixel in row] for row in rows], np.uint8)


@given(MASKS)
def test_a_mask_comes_back_as_it_was(mask):
    assert np.array_equal(of_runs(runs(mask), *mask.shape), mask)


@pytest.mark.parametrize(("pixels", "counts"), [([0, 0, 1, 1, 1, 0, 1], [2, 3, 1, 1]), ([1] * 6 + [0], [0, 6, 1])])
def test_runs_are_cocos(pixels, counts):
    """The examples of its own documentation (maskApi.h), which go down a column."""
    assert runs(np.array([pixels], np.uint8).T) == counts


@pytest.mark.parametrize(
    "mask",
    [
        drawn("....", "....", "...."),
        drawn("####", "####", "####"),
        drawn("....", ".#..", "...."),
        drawn("#...", "....", "...#"),
        drawn("#####", "#...#", "#.#.#", "#...#", "#####"),
        drawn("#"),
    ],
    ids=["empty", "full", "one pixel", "corners", "an island in a hole", "one pixel in all"],
)
def test_holes_islands_and_borders_come_back(mask):
    assert np.array_equal(of_runs(runs(mask), *mask.shape), mask)


@pytest.mark.parametrize(
    "counts",
    [
        [11],
        [13],
        [],
        [6, 0, 6],
        [-1, 13],
        [[12]],
        [2**62, 2**62],
        [2**62, 2**62, 2**62, 2**62 + 12],  # whose sum is 12, modulo 2 ** 64
        [2**70],
        [-(2**70), 12],
    ],
)
def test_runs_of_another_size_are_refused(counts):
    with pytest.raises(ValueError, match="no mask of 3 x 4 pixels"):
        of_runs(counts, 3, 4)


def test_dice_by_hand():
    one, other = drawn("##..", "##.."), drawn(".##.", ".##.")
    assert dice(one, other) == 2 * 2 / (4 + 4)
    assert dice(one, one) == 1
    assert dice(one, np.zeros_like(one)) == 0
    assert dice(np.zeros_like(one), np.zeros_like(one)) == 1
    assert dice(one // 255, other) == 0.5  # whatever is not 0


def test_distances_of_outlines_by_hand():
    one, other = drawn("#.....", "......"), drawn("...#..", "......")
    assert boundary_distances(one, other) == (3.0, 3.0)
    assert boundary_distances(one, one) == (0.0, 0.0)
    # 3 and 4 pixels away in one direction, 0 of two in the other: (3 + 4 + 0 + 0) / 4 = 1.75
    line, longer = drawn("#.......", "#......."), drawn("#..#....", "#...#...")
    mean, most = boundary_distances(line, longer)
    assert mean == pytest.approx((0 + 0 + 0 + 0 + 3 + 4) / 6)
    # Of each direction separately, and the larger; 0, 0, 0, 0, 3, 4 pooled would come to 3.75.
    assert most == pytest.approx(max(np.percentile([0, 0], 95), np.percentile([0, 0, 3, 4], 95))) == 3.85


def test_review_and_evaluation_mean_the_same_by_distance():
    from lesionnets.evaluation.figures.boundary import boundary

    drawing = np.random.default_rng(21)
    for _ in range(20):
        one, other = ((drawing.random((24, 31)) > 0.7).astype(np.uint8) * 255 for _ in range(2))
        ours, theirs = boundary_distances(one, other), boundary(one > 0, other > 0)
        assert ours == pytest.approx((theirs["surface_distance"], theirs["hausdorff_95"]), rel=1e-5)


def test_an_outline_runs_along_the_border_of_the_picture():
    full = drawn("###", "###", "###")
    only = drawn("...", ".#.", "...")
    # 8 pixels of the full mask's outline are 1 or sqrt(2) from the middle, which is 1 from them.
    mean, _ = boundary_distances(full, only)
    assert mean == pytest.approx((4 * 1 + 4 * 2**0.5 + 1) / 9, abs=1e-6)


def test_there_is_no_distance_to_nothing():
    assert boundary_distances(drawn("#."), drawn("..")) is None
    assert boundary_distances(drawn(".."), drawn("..")) is None


def test_kappa_by_hand():
    """Cohen's own way: 20 and 15 of 50 agreed on, 5 and 10 not."""
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert kappa(first, second) == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert kappa(["a", "b"], ["b", "a"]) == pytest.approx(-1)
    assert kappa(["a", "b", "c"], ["a", "b", "c"]) == 1


def test_kappa_is_undefined_without_images_or_choice():
    assert kappa([], []) is None
    assert kappa(["nevus"] * 3, ["nevus"] * 3) is None
    with pytest.raises(ValueError, match="the same images"):
        kappa(["a"], [])
