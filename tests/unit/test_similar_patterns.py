"""Local patterns of lesions, and codes of embeddings: what similar cases are found by."""

import itertools

import cv2
import numpy as np
import pytest
from test_similar import SIDE, directions, lesion, placed_patterns

from orchestrator.similar import codes
from orchestrator.similar.patterns import Box, apart, matches, patterns_of, patterns_placed


def test_patterns_do_not_change_with_light_or_resolution():
    picture, mask = lesion()
    plain = patterns_of(picture, mask, None, SIDE, SIDE)
    dim, _ = lesion(gain=0.75)
    other, _ = lesion(seed=8, spots=False)
    large = cv2.resize(picture, (2 * SIDE, 2 * SIDE), interpolation=cv2.INTER_CUBIC)

    def likeness(picture, mask=mask):
        found = matches(plain, patterns_of(picture, mask, None, SIDE, SIDE))
        return sum(match.counted for match in found)

    assert likeness(picture) == pytest.approx(1, abs=1e-3)
    assert likeness(dim) > 0.9
    assert likeness(large, cv2.resize(mask, (2 * SIDE, 2 * SIDE))) > 0.75
    assert likeness(other) < likeness(large, cv2.resize(mask, (2 * SIDE, 2 * SIDE)))


def test_regions_lie_in_the_lesion_and_weigh_by_what_the_classifier_looked_at():
    picture, mask = lesion()
    heat = np.zeros((64, 64), np.uint8)
    heat[:30] = 255
    found = patterns_of(picture, mask, heat, 2 * SIDE, 2 * SIDE)
    assert found.weights.sum() == pytest.approx(1)
    assert len(found.boxes) == len(found.weights) == len(found.described) > 9
    for box in found.boxes:
        assert 0 <= box.left < box.right <= 2 * SIDE
        assert mask[(box.top + box.bottom) // 4, (box.left + box.right) // 4]
    upper = sum(w for box, w in zip(found.boxes, found.weights, strict=True) if box.top + box.bottom < 2 * SIDE)
    assert upper > 0.55


def test_a_chosen_region_alone_counts():
    picture, mask = lesion()
    found = patterns_of(picture, mask, None, SIDE, SIDE)
    only = matches(found, found, (3, 1))
    assert {match.region for match in only} == {1, 3}
    assert sum(match.counted for match in only) == pytest.approx(1, abs=1e-3)


def test_regions_that_are_shown_lie_apart_and_those_that_count_most_come_first():
    picture, mask = lesion()
    found = matches(*[patterns_of(picture, mask, None, SIDE, SIDE)] * 2)
    shown = apart(found, 5)
    assert shown[0] == found[0]
    assert 2 <= len(shown) <= 5
    assert len({match.other for match in shown}) == len(shown)
    for one, other in itertools.combinations(shown, 2):
        across, down = abs(one.box.left - other.box.left), abs(one.box.top - other.box.top)
        assert across + down > 7


def test_a_picture_without_lesion_has_no_patterns():
    assert patterns_of(lesion()[0], np.zeros((SIDE, SIDE), np.uint8), None, SIDE, SIDE) is None


@pytest.mark.parametrize(
    ("shape", "at", "radius"), [((40, 90), (5, 5), 30), ((90, 40), (20, 60), 2), ((8, 8), (4, 4), 9)]
)
def test_lesions_at_the_edge_tiny_ones_and_those_that_fill_the_picture_have_regions(shape, at, radius):
    picture = np.full((*shape, 3), 120, np.uint8)
    mask = np.zeros(shape, np.uint8)
    cv2.circle(mask, at, radius, 255, -1)
    found = patterns_of(picture, mask, None, *shape)
    assert np.isfinite(found.described).all()
    assert found.weights.sum() == pytest.approx(1)


def test_patterns_that_a_model_gave_are_regions_where_it_placed_them():
    found = patterns_placed(placed_patterns((2, 2, 0, 0.3), (3, 3, 0, 0.3), (4, 6, 1, 0.4)), 80, 160)
    assert found.boxes == (Box(40, 20, 80, 40), Box(120, 40, 160, 60))
    np.testing.assert_allclose(found.weights, [0.6, 0.4], atol=1e-3)
    same = matches(found, found)
    assert sum(match.counted for match in same) == pytest.approx(1)
    assert patterns_placed(placed_patterns((0, 0, 0, 1.0), (0, 4, 1, 0.01)), 80, 80).boxes == (Box(0, 0, 20, 20),)
    other = patterns_placed(placed_patterns((0, 0, 0, 0.5), (0, 4, 2, 0.5)), 80, 160)
    assert sum(match.counted for match in matches(found, other)) == pytest.approx(0.6, abs=1e-3)
    assert patterns_placed(placed_patterns(), 80, 80) is None


def test_codes_find_the_nearest_among_those_allowed():
    vectors = directions(50)
    coder = codes.Coder(4)
    coder.add(coder.encode(vectors[:20]))
    coder.add(coder.encode(vectors[20:]))
    assert coder.cases == 50
    exact = np.argsort(-(vectors @ vectors[7]))
    assert [number for number, _ in coder.nearest(vectors[7], 5)] == exact[:5].tolist()
    allowed = np.ones(50, bool)
    allowed[exact[:3]] = False
    assert [number for number, _ in coder.nearest(vectors[7], 2, allowed)] == exact[3:5].tolist()
    assert coder.nearest(vectors[7], 5, np.zeros(50, bool)) == []
    assert codes.Coder(4).nearest(vectors[7], 5) == []


def test_many_are_kept_as_codes_that_find_nearly_the_same():
    random = np.random.default_rng(0)
    vectors = (random.normal(size=(4000, 20)) @ random.normal(size=(20, 256))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    trained = codes.train(vectors)
    coder = codes.Coder(256, trained)
    for part in np.array_split(vectors, 3):
        coder.add(codes.Coder(256, trained).encode(part))
    assert coder.code_bytes < codes.Coder(256).code_bytes
    hits = [
        len(set(np.argsort(-(vectors @ one))[:10]) & {n for n, _ in coder.nearest(one, 10)})
        for one in vectors[::80]
    ]
    assert np.mean(hits) >= 9
    allowed = np.arange(len(vectors)) % 2 == 0
    assert all(number % 2 == 0 for number, _ in coder.nearest(vectors[1], 10, allowed))


def test_the_nearest_of_few_that_are_allowed_are_found_wherever_they_lie():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(6000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    coder = codes.Coder(16, codes.train(vectors))
    coder.add(coder.encode(vectors))
    far = np.argsort(vectors @ vectors[7])[:5]
    allowed = np.zeros(len(vectors), bool)
    allowed[far] = True
    assert {number for number, _ in coder.nearest(vectors[7], 10, allowed)} == set(far.tolist())
