from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from orchestrator.reporting.differences import _first_tile
from orchestrator.similar.picture import tile_of
from workers.image.preview import TILE, original_of, preview


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


def test_the_zone_that_a_border_map_leaves_open_is_tinted_beneath_the_outline():
    image = np.full((300, 300, 3), 100, np.uint8)
    mask = cv2.circle(np.zeros((300, 300), np.uint8), (150, 150), 80, 255, -1)
    border = cv2.GaussianBlur(cv2.resize(mask, (150, 150)), (0, 0), 12)
    strip = decoded(preview(image, mask, image, None, border)).astype(int)
    amber = (strip[..., 0] - strip[..., 2]) > 50
    assert amber[:, TILE : 2 * TILE].sum() > 2000
    assert not amber[90:134, TILE + 90 : TILE + 134].any()
    assert not amber[:, :TILE].any()
    sharp = decoded(preview(image, mask, image, None, mask)).astype(int)
    assert ((sharp[..., 0] - sharp[..., 2]) > 50).sum() < amber.sum() / 4


def test_what_is_missing_is_blank():
    image = np.zeros((100, 100, 3), np.uint8)
    strip = decoded(preview(image, None, None, None))
    assert tile(strip, 0).max() < 60
    assert all(tile(strip, number).min() > 230 for number in (1, 2, 3))


@pytest.mark.parametrize("shape", [(40, 60), (2304, 3072), (901, 333), (1, 5000), (16, 1999), (224, 224)])
def test_the_original_can_be_taken_out_of_a_preview(shape):
    image = np.full((*shape, 3), (180, 120, 90), np.uint8)
    shown = preview(image, None, None, None)
    tile_of_it = original_of(shown, *shape)
    assert max(tile_of_it.shape[:2]) == TILE
    assert np.abs(tile_of_it.astype(int) - (180, 120, 90)).mean() < 12 or min(shape) < 20
    again = decoded(preview(tile_of_it, None, None, None)).astype(int)
    assert np.abs(again - decoded(shown).astype(int)).mean() < 1


@pytest.mark.parametrize("shape", [(1921, 2873), (901, 333), (450, 601), (16, 1999), (3001, 2000)])
def test_who_takes_a_tile_out_of_a_preview_takes_it_without_the_blank_beside_it(shape):
    shown = preview(np.full((*shape, 3), (180, 120, 90), np.uint8), None, None, None)
    size = SimpleNamespace(height=shape[0], width=shape[1])
    record = SimpleNamespace(preview_jpeg=shown, source=size, stages={})
    expected = original_of(shown, *shape)
    for found in (_first_tile(record), tile_of(record)):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("broken", [b"", b"torn", bytes(cv2.imencode(".jpg", np.zeros((9, 9, 3), np.uint8))[1])])
def test_what_is_no_preview_has_no_original(broken):
    assert original_of(broken, 300, 400) is None
