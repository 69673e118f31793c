import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from dermbatch.images import png

pictures = st.one_of(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40)),
    arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))),
)


@settings(max_examples=150, deadline=None)
@given(pictures)
def test_every_picture_comes_back_as_it_was(image):
    body = png.encode(image)
    np.testing.assert_array_equal(png.decode(body), image)
    # An independent reader, which checks the chunks' sums too
    with Image.open(io.BytesIO(body)) as other:
        assert other.mode == ("RGB" if image.ndim == 3 else "L")
        np.testing.assert_array_equal(np.asarray(other), image)


def test_a_view_of_a_larger_picture_can_be_written():
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    np.testing.assert_array_equal(png.decode(png.encode(image[10:50:2, 5:70])), image[10:50:2, 5:70])


def test_smooth_pictures_are_packed_about_as_well_as_others_do():
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (400, 600, 3), np.uint8), (31, 31), 0)
    usual = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    assert len(png.encode(image)) < 1.1 * len(usual)


@pytest.mark.parametrize("body", [b"", b"no picture", png.encode(np.zeros((30, 30), np.uint8))[:30]])
def test_what_is_no_picture_is_refused(body):
    with pytest.raises(ValueError, match="not a readable PNG"):
        png.decode(body)
