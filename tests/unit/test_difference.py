import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermbatch.images.difference import apply, encode


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.5), st.integers(0, 99))
def test_a_picture_comes_out_as_it_was(height, width, share, seed):
    source, other = picture(height, width, seed), picture(height, width, seed + 1)
    changed = np.random.default_rng(seed).random((height, width)) < share
    made = np.where(changed[..., None], other, source)
    body = encode(made, source)
    if body is None:  # small ones may change more than they were to
        assert changed.mean() > 0.5
    else:
        np.testing.assert_array_equal(apply(body, source), made)


def test_a_change_of_one_channel_counts():
    source = picture(5, 7)
    for channel in range(3):
        made = source.copy()
        made[4, 6, channel] ^= 1
        np.testing.assert_array_equal(apply(encode(made, source), source), made)


def test_the_same_picture_takes_next_to_nothing():
    source = picture(1500, 2000)
    body = encode(source.copy(), source)
    assert len(body) < 100
    np.testing.assert_array_equal(apply(body, source), source)


def test_pictures_with_little_in_common_have_no_differences():
    assert encode(picture(30, 40), picture(30, 40, 1)) is None
    assert encode(picture(30, 40), picture(40, 30)) is None


def test_what_is_no_difference_is_refused():
    source = picture(30, 40)
    made = source.copy()
    made[3:6, 8:20] = 7
    body = encode(made, source)
    packed = imagecodecs.zstd_decode(body[13:])
    bomb = imagecodecs.zstd_encode(b"0" * 10_000_000)
    longer, shorter = (bytes(imagecodecs.zstd_encode(data)) for data in (packed + b"0", packed[:-1]))
    for bad in (
        b"",
        body[:-1],
        body[:13],
        b"PNG" + body[3:],
        *(body[:13] + end for end in (longer, shorter, bomb)),
    ):
        with pytest.raises(ValueError, match="difference"):
            apply(bad, source)
    with pytest.raises(ValueError, match="of this size"):
        apply(body, picture(40, 30))
