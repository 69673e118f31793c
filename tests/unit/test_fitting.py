import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermbatch.images.fitting import fit, halved, sent_size


@pytest.mark.parametrize(
    ("size", "image", "expected"),
    [
        ((-1, -1), (767, 1022), (767, 1022)),
        ((-1, -1), (2304, 3072), (768, 1024)),
        ((-1, -1), (4000, 3), (1024, 1)),
        ((256, 320), (2304, 3072), (256, 320)),
        ((256, 320), (10, 10), (256, 320)),
        ((256, -1), (2304, 3072), (256, 1024)),
    ],
)
def test_the_size_sent_is_the_models_or_a_reduced_one(size, image, expected):
    assert sent_size(size, *image, 1024) == expected


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.tuples(st.integers(1, 90), st.integers(1, 90)))
def test_even_pictures_stay_even_at_any_size(have, want):
    image = np.full((*have, 3), (200, 100, 50), np.uint8)
    found = fit(image, want)
    assert found.shape == (*want, 3)
    assert (found == (200, 100, 50)).all()


def test_nothing_is_done_where_the_size_fits():
    image = np.zeros((5, 7), np.uint8)
    assert fit(image, (5, 7)) is image


@pytest.mark.parametrize("want", [(96, 128), (200, 301), (77, 500)])
def test_a_reduced_picture_is_near_the_areas_means(want):
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (767, 1023, 3), np.uint8), (41, 41), 0)
    means = cv2.resize(image, want[::-1], interpolation=cv2.INTER_AREA)
    apart = np.abs(fit(image, want).astype(int) - means)
    assert apart.mean() < 1
    assert apart.max() <= 8


def test_halving_takes_means():
    np.testing.assert_array_equal(halved(np.array([[0, 4, 9], [8, 12, 9]], np.uint8)), [[6]])
