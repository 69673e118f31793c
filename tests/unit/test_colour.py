import numpy as np
import pytest

from dermbatch.images.lesion import clean
from workers.stages.colour import ABCD_COLOURS, colour_statistics, count_colours

SKIN, MOLE = (210, 160, 140), (100, 60, 40)


def picture(height=200, width=300):
    """Skin, a mole in the middle, and a black frame."""
    image = np.full((height, width, 3), SKIN, np.uint8)
    image[:5] = image[-5:] = image[:, :5] = image[:, -5:] = 4
    mask = np.zeros((height, width), np.uint8)
    mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 255
    image[mask > 0] = MOLE
    return image, mask


@pytest.mark.parametrize("size", [(200, 300), (2000, 3001), (12, 15)])
def test_lesion_and_skin_are_told_apart_at_any_size(size):
    image, mask = picture(*size)
    found = colour_statistics(image, *clean(mask, min_share=0, min_pixels=1))
    assert found.mean_rgb == pytest.approx(MOLE, abs=0.01)
    assert found.std_rgb == pytest.approx((0, 0, 0), abs=0.01)
    assert found.colours == 1
    if min(size) > 20:
        assert found.skin_mean_rgb == pytest.approx(SKIN, abs=0.01)


def test_no_skin_in_sight_is_said():
    image = np.full((50, 50, 3), MOLE, np.uint8)
    assert (
        colour_statistics(image, *clean(np.full((50, 50), 255, np.uint8), min_share=0, min_pixels=1)).skin_mean_rgb
        is None
    )


def test_the_spread_is_that_of_the_pixels():
    image, mask = picture()
    noisy = np.random.default_rng(0).normal(100, 20, (*mask.shape, 3)).clip(0, 255).astype(np.uint8)
    image[mask > 0] = noisy[mask > 0]
    found = colour_statistics(image, *clean(mask, min_share=0, min_pixels=1))
    assert found.mean_rgb == pytest.approx((100, 100, 100), abs=2)
    assert found.std_rgb == pytest.approx((20, 20, 20), abs=1)


def test_a_lesion_thinner_than_the_sampling_is_measured_all_the_same():
    image = np.full((3000, 3000, 3), SKIN, np.uint8)
    mask = np.zeros((3000, 3000), np.uint8)
    mask[1501, 200:2800] = 255
    image[1501, 200:2800] = MOLE
    assert colour_statistics(image, *clean(mask, min_share=0, min_pixels=1)).mean_rgb == pytest.approx(
        MOLE, abs=0.01
    )


@pytest.mark.parametrize("count", range(1, 7))
def test_each_of_the_six_colours_counts_once(count):
    shown = list(ABCD_COLOURS.values())[:count]
    pixels = np.repeat(np.array(shown, np.float32), 100, axis=0) + np.random.default_rng(1).normal(
        0, 3, (100 * count, 3)
    )
    assert count_colours(pixels.clip(0, 255).astype(np.float32)) == count


def test_a_trace_of_a_colour_does_not_count():
    brown, black = ABCD_COLOURS["dark brown"], ABCD_COLOURS["black"]
    assert count_colours(np.array([brown] * 97 + [black] * 3, np.float32)) == 1
    assert count_colours(np.array([brown] * 94 + [black] * 6, np.float32)) == 2
