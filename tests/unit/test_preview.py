import cv2
import numpy as np
import pytest

from workers.preview import TILE, preview


def decoded(jpeg):
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def tile(strip, number):
    return strip[:, number * TILE : (number + 1) * TILE]


@pytest.mark.parametrize("shape", [(40, 60), (2304, 3072), (900, 300), (1, 5000)])
def test_four_tiles_whatever_the_size(shape):
    image = np.full((*shape, 3), (180, 120, 90), np.uint8)
    strip = decoded(preview(image, np.zeros(shape, np.uint8), image, image))
    assert strip.shape == (TILE, 4 * TILE, 3)
    centre = tile(strip, 0)[TILE // 2, TILE // 2].astype(int)
    assert np.abs(centre - (180, 120, 90)).max() <= 12 or min(shape) == 1


def test_the_lesion_is_outlined_on_the_second_tile_only():
    image = np.full((300, 300, 3), 200, np.uint8)
    mask = np.zeros((300, 300), np.uint8)
    mask[100:200, 100:200] = 255
    strip = decoded(preview(image, mask, image, None)).astype(int)
    green = (strip[..., 1] - strip[..., 0]) > 60
    assert green[:, TILE : 2 * TILE].sum() > 200
    assert not green[:, :TILE].any()
    assert not green[:, 2 * TILE :].any()


def test_what_is_missing_is_blank():
    image = np.zeros((100, 100, 3), np.uint8)
    strip = decoded(preview(image, None, None, None))
    assert tile(strip, 0).max() < 60
    assert all(tile(strip, number).min() > 230 for number in (1, 2, 3))
