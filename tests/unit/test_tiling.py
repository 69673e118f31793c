import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standins import Triton, double_by_squares, enlarge_four_times, served

from dermbatch.errors import ModelContractError
from dermbatch.images.fitting import halved
from dermbatch.records.outcome import BoundingBox
from workers.stages.tiling import spans, strips, super_resolve


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_tiles_cover_everything_once_and_stay_in_the_image(data):
    limit = data.draw(st.integers(1, 900), "limit")
    begin = data.draw(st.integers(0, limit - 1), "begin")
    end = data.draw(st.integers(begin + 1, limit), "end")
    tile = data.draw(st.integers(2, 300), "tile")
    overlap, grid = data.draw(st.integers(0, 200), "overlap"), data.draw(st.sampled_from([1, 2]), "grid")
    tile += tile % grid
    found = spans(begin, end, limit, tile, overlap, grid)
    taken = [pixel for span in found for pixel in range(span.first, span.last)]
    assert taken == list(range(begin, end))
    for span in found:
        assert span.start <= span.first
        assert span.last <= span.start + tile
        assert span.start >= 0
        assert span.start % grid == 0
        assert span.start + tile <= max(limit + limit % grid, tile)


@settings(max_examples=200, deadline=None)
@given(st.integers(100, 900), st.integers(40, 99), st.integers(2, 20), st.sampled_from([1, 2]))
def test_a_cut_lies_half_an_overlap_within_both_tiles(length, tile, overlap, grid):
    tile -= tile % grid
    found = spans(0, length, length, tile, overlap, grid)
    assert len(found) > 1
    for left, right in itertools.pairwise(found):
        cut = left.last
        assert left.start + tile - cut >= overlap // 2
        assert cut - right.start >= overlap // 2


@settings(max_examples=200)
@given(st.data())
def test_strips_take_what_is_needed_once_and_reach_half_an_overlap_beyond(data):
    height, width = data.draw(st.integers(1, 200), "height"), data.draw(st.integers(1, 200), "width")
    limits = height + data.draw(st.integers(0, 60), "below"), width + data.draw(st.integers(0, 60), "beside")
    box = BoundingBox(top=limits[0] - height, left=limits[1] - width, bottom=limits[0], right=limits[1])
    overlap, grid = data.draw(st.integers(0, 20), "overlap"), data.draw(st.sampled_from([1, 2]), "grid")
    needed = np.zeros((height, width), bool)
    for _ in range(data.draw(st.integers(0, 3), "lesions")):
        row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        needed[row : row + data.draw(st.integers(1, 90)), column : column + data.draw(st.integers(1, 90))] = True
    taken = np.zeros(limits, int)
    for row, column in strips(needed, box, limits, 64, overlap, grid=grid):
        taken[row.first : row.last, column.first : column.last] += 1
        assert row.size <= 64
        for span, limit in ((row, limits[0]), (column, limits[1])):
            first = max(0, span.first - overlap // 2)
            assert span.start == first - first % grid
            assert span.start + span.size == min(limit, span.last + overlap // 2)
    assert taken.max(initial=0) <= 1
    assert (taken[box.top :, box.left :][needed] == 1).all()


def test_strips_follow_a_round_lesion():
    needed = cv2.circle(np.zeros((400, 400), np.uint8), (200, 200), 160, 1, -1) > 0
    box = BoundingBox(top=50, left=60, bottom=450, right=460)
    found = list(strips(needed, box, (600, 700), 160, 20))
    assert 3 <= len(found) < 20
    assert sum(row.size * column.size for row, column in found) < 1.6 * np.count_nonzero(needed)


def test_lesions_far_apart_have_strips_of_their_own():
    needed = np.zeros((60, 600), bool)
    needed[10:50, 20:60] = needed[10:50, 500:560] = True
    found = list(strips(needed, BoundingBox(top=0, left=0, bottom=60, right=600), (60, 600), 160, 20))
    assert [(column.first, column.last) for _, column in found] == [(18, 62), (498, 562)]


def photograph(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.GaussianBlur(noise, (7, 7), 0)


@pytest.mark.parametrize("size", [(-1, -1), (64, 64), (48, 96)])
@pytest.mark.parametrize("box", [(0, 0, 300, 400), (37, 50, 261, 333), (100, 100, 130, 120)])
def test_tiles_show_no_seams(size, box):
    image = photograph(300, 400)
    whole = enlarge_four_times(image)["ENHANCED"]
    part = BoundingBox(top=box[0], left=box[1], bottom=box[2], right=box[3])
    needed = np.ones((box[2] - box[0], box[3] - box[1]), bool)
    client = Triton({"m": enlarge_four_times})
    found = super_resolve(image, part, needed, client, served(size=size), scale=4, tile=64, overlap=12)
    inner = slice(24, -24)  # a free tile ends where the box does, so the border there is the network's own
    expected = whole[4 * box[0] : 4 * box[2], 4 * box[1] : 4 * box[3]]
    np.testing.assert_array_equal(found[inner, inner], expected[inner, inner])


@pytest.mark.parametrize("size", [(-1, -1), (64, 48)])
@pytest.mark.parametrize("box", [(0, 0, 301, 399), (37, 51, 262, 332), (101, 101, 130, 120)])
def test_a_model_that_sees_squares_sees_the_same_in_all_tiles(size, box):
    image = photograph(301, 399)
    whole = double_by_squares(image)["ENHANCED"]
    part = BoundingBox(top=box[0], left=box[1], bottom=box[2], right=box[3])
    needed = np.ones((box[2] - box[0], box[3] - box[1]), bool)
    client = Triton({"m": double_by_squares})
    found = super_resolve(image, part, needed, client, served(size=size), scale=2, tile=64, overlap=2, grid=2)
    np.testing.assert_array_equal(found, whole[2 * box[0] : 2 * box[2], 2 * box[1] : 2 * box[3]])


def test_tiles_where_nothing_is_needed_are_not_asked_for():
    image = photograph(200, 600)
    needed = np.zeros((200, 600), bool)
    needed[90:110, 20:40] = True
    client = Triton({"m": enlarge_four_times})
    box = BoundingBox(top=0, left=0, bottom=200, right=600)
    found = super_resolve(image, box, needed, client, served(), scale=4, tile=100, overlap=10)
    assert len(client.asked) == 1
    whole = enlarge_four_times(image)["ENHANCED"]
    np.testing.assert_array_equal(found[360:440, 80:160], whole[360:440, 80:160])
    assert not found[:, 1200:].any()


def test_halving_by_tiles_is_halving_the_whole():
    image = photograph(150, 210)
    box = BoundingBox(top=10, left=20, bottom=140, right=201)
    ask = {"needed": np.ones((130, 181), bool), "client": Triton({"m": enlarge_four_times}), "model": served()}
    full = super_resolve(image, box, **ask, scale=4, tile=64, overlap=12)
    for count, expected in enumerate([full, halved(full), halved(halved(full))]):
        found = super_resolve(image, box, **ask, scale=4, tile=64, overlap=12, halvings=count)
        np.testing.assert_array_equal(found, expected)


def test_an_image_smaller_than_the_models_tile_is_mirrored():
    image = photograph(30, 50)
    client = Triton({"m": enlarge_four_times})
    box = BoundingBox(top=0, left=0, bottom=30, right=50)
    model = served(size=(64, 64))
    found = super_resolve(image, box, np.ones((30, 50), bool), client, model, scale=4, tile=64, overlap=12)
    assert found.shape == (120, 200, 3)
    sent = client.asked[0][1]["IMAGE"]
    np.testing.assert_array_equal(sent[:30, :50], image)
    np.testing.assert_array_equal(sent[30:60, :50], image[::-1])


def test_a_model_of_another_scale_is_found_out():
    client = Triton({"m": lambda IMAGE: {"ENHANCED": IMAGE}})  # noqa: N803
    box = BoundingBox(top=0, left=0, bottom=20, right=20)
    with pytest.raises(ModelContractError, match=r"ENHANCED of shape \[20, 20, 3\], not \[80, 80, 3\]"):
        super_resolve(
            photograph(20, 20), box, np.ones((20, 20), bool), client, served(), scale=4, tile=64, overlap=12
        )
