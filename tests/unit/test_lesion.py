import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dermbatch.images.lesion import bounding_box, clean, filled_pixels, lesion_mask, touches_frame

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)).map(
    lambda mask: mask.astype(np.uint8) * 255
)


def holes_of(mask):
    """Background that is not 4-connected to the outside, found by flooding a frame around the picture."""
    framed = np.pad(mask, 1)
    cv2.floodFill(framed, None, (0, 0), 128)
    return framed[1:-1, 1:-1] == 0


@settings(max_examples=200, deadline=None)
@given(masks)
def test_cleaning_without_limits_fills_the_holes_and_nothing_else(mask):
    cleaned, outlines = clean(mask, min_share=0, min_pixels=0)
    np.testing.assert_array_equal(cleaned > 0, (mask > 0) | holes_of(mask))
    assert len(outlines) == cv2.connectedComponents(mask, connectivity=8)[0] - 1 - inner_islands(mask)


def inner_islands(mask):
    """Lesions that lie inside another one's hole: filling takes them in."""
    filled = ((mask > 0) | holes_of(mask)).astype(np.uint8)
    return cv2.connectedComponents(mask, connectivity=8)[0] - cv2.connectedComponents(filled, connectivity=8)[0]


@settings(max_examples=100, deadline=None)
@given(masks, st.floats(0, 1), st.floats(0, 30))
def test_cleaning_twice_is_as_good_as_once(mask, min_share, min_pixels):
    once, outlines = clean(mask, min_share=min_share, min_pixels=min_pixels)
    twice, again = clean(once, min_share=min_share, min_pixels=min_pixels)
    np.testing.assert_array_equal(once, twice)
    assert len(outlines) == len(again)


@settings(max_examples=100, deadline=None)
@given(masks)
def test_the_pixels_in_an_outline_are_counted_exactly(mask):
    for outline in clean(mask, min_share=0, min_pixels=0)[1]:
        drawn = cv2.drawContours(np.zeros_like(mask), [outline], -1, (1,), cv2.FILLED)
        # An outline that runs back over itself (a line of single pixels) is counted a little too high.
        assert filled_pixels(outline) >= int(drawn.sum())
    disc = cv2.circle(np.zeros((99, 99), np.uint8), (49, 49), 40, 255, -1)
    assert filled_pixels(clean(disc, min_share=0, min_pixels=0)[1][0]) == np.count_nonzero(disc)


def two_discs(small):
    mask = np.zeros((200, 300), np.uint8)
    cv2.circle(mask, (100, 100), 50, 255, -1)
    cv2.circle(mask, (250, 100), small, 255, -1)
    return mask


@pytest.mark.parametrize(("radius", "kept"), [(2, 1), (8, 1), (20, 2), (45, 2)])
def test_specks_go_and_second_lesions_stay(radius, kept):
    cleaned, outlines = clean(two_discs(radius), min_share=0.05, min_pixels=20)
    assert len(outlines) == kept
    assert bool(cleaned[100, 250]) is (kept == 2)
    assert filled_pixels(outlines[0]) == max(filled_pixels(outline) for outline in outlines)


@pytest.mark.parametrize(
    ("most", "kept"), [(1, ["sure"]), (2, ["sure", "vague"]), (9, ["sure", "vague", "small"])]
)
def test_of_several_lesions_those_with_most_evidence_stay(most, kept):
    probability = np.zeros((200, 300), np.uint8)
    places = {"vague": (60, 60), "sure": (60, 240), "small": (170, 60)}
    for name, radius, value in (("vague", 40, 140), ("sure", 35, 250), ("small", 20, 250)):
        cv2.circle(probability, places[name][::-1], radius, value, -1)
    found = lesion_mask(probability, (400, 600), most=most)
    mask, outlines = found.mask, found.outlines
    assert found.found == 3
    assert {name for name, (row, column) in places.items() if mask[2 * row, 2 * column]} == set(kept)
    assert len(outlines) == len(kept)
    redrawn = cv2.drawContours(np.zeros_like(mask), outlines, -1, 255, cv2.FILLED)
    np.testing.assert_array_equal(mask, redrawn)


def test_the_lesion_in_the_middle_goes_before_a_larger_one_at_the_edge():
    probability = np.zeros((200, 300), np.uint8)
    cv2.circle(probability, (150, 100), 25, 200, -1)
    cv2.circle(probability, (285, 100), 45, 200, -1)
    found = lesion_mask(probability, probability.shape)
    assert len(found.outlines) == 1
    assert found.mask[100, 150]
    assert not found.mask[100, 285]


def test_one_lesion_stays_where_nothing_else_is_asked_for():
    found = lesion_mask(two_discs(45), (200, 300))
    assert (len(found.outlines), found.found) == (1, 2)
    assert found.mask[100, 100]
    assert not found.mask[100, 250]


def test_a_lone_speck_is_no_lesion():
    mask = np.zeros((100, 100), np.uint8)
    mask[50, 50] = 255
    cleaned, outlines = clean(mask, min_share=0.05, min_pixels=4)
    assert not cleaned.any()
    assert outlines == []


@pytest.mark.parametrize("size", [(480, 640), (767, 1022), (1, 1), (50, 3), (2304, 3072)])
def test_the_mask_has_the_images_size_and_the_lesions_place(size):
    rows, columns = np.mgrid[:96, :128]
    inside = np.hypot((rows - 40) / 96, (columns - 80) / 128) < 0.2
    mask = lesion_mask(
        inside.astype(np.uint8) * 255, size, threshold=0.5, min_share=0.05, min_fraction=0.0002
    ).mask
    assert mask.shape == size
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 255}
    if min(size) > 10:
        assert np.mean(mask > 0) == pytest.approx(inside.mean(), rel=0.03)
        row, column = (places.mean() for places in np.nonzero(mask))
        assert (row / size[0], column / size[1]) == pytest.approx((40.5 / 96, 80.5 / 128), abs=0.01)


@pytest.mark.parametrize("threshold", [0.01, 0.2, 0.5, 0.8, 1.0])
def test_a_pixel_is_lesion_from_the_threshold_on(threshold):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (8, 1))
    mask = lesion_mask(ramp, ramp.shape, threshold=threshold, min_share=0, min_fraction=0).mask
    np.testing.assert_array_equal(mask[4] > 0, np.arange(256) / 255 >= threshold)


@pytest.mark.parametrize(
    ("place", "touches"), [((0, 5), True), ((9, 5), True), ((5, 0), True), ((5, 9), True), ((1, 1), False)]
)
def test_a_lesion_at_the_edge_is_seen(place, touches):
    mask = np.zeros((10, 10), np.uint8)
    mask[place] = 255
    assert touches_frame(mask) is touches


def test_the_box_holds_all_lesions():
    mask = two_discs(20)
    outlines = clean(mask, min_share=0, min_pixels=0)[1]
    top, left, bottom, right = bounding_box(outlines)
    assert (top, left, bottom, right) == (50, 50, 151, 271)
    assert np.count_nonzero(mask[top:bottom, left:right]) == np.count_nonzero(mask)
