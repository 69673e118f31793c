"""Layers of hair, pictures put together from them, and the camera that they go through on the training device."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from dermbatch.phantoms.occlusion import draw_hairs, draw_ink
from dermbatch.phantoms.phantom import phantom
from lesionnets.data.batches.laid_over import SIDE, LaidOver, make_bank
from lesionnets.data.batches.occluded import phantom_backgrounds
from lesionnets.data.layers import Layer, any_layer, drawn_layer, lifted_layer
from lesionnets.data.tensor_camera import blurred, jpeg
from lesionnets.evaluation.purify import measure, pair_case

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def skin() -> np.ndarray:
    return phantom(3, height=256, width=256, occlusions=()).clean


@pytest.mark.parametrize("draw", [draw_hairs, draw_ink])
def test_a_drawn_layer_covers_a_picture_as_the_drawing_does(draw, skin: np.ndarray) -> None:
    drawn = draw(skin, np.random.default_rng([1, 2])).rgb
    assert np.abs(drawn_layer(draw, 256, (1, 2)).over(skin).astype(int) - drawn).max() <= 2


def test_layers_are_the_same_for_the_same_seed_and_cover_a_part(skin: np.ndarray) -> None:
    for seed in range(8):
        one, other = any_layer(256, (0, seed)), any_layer(256, (0, seed))
        assert np.array_equal(one.through, other.through)
        assert np.array_equal(one.own, other.own)
        changed = (one.over(skin) != skin).any(axis=2).mean()
        assert 0 < changed < 0.8


def test_lifted_hair_is_that_of_the_picture(skin: np.ndarray) -> None:
    covered, mask = skin.copy(), np.zeros(skin.shape[:2], np.uint8)
    cv2.line(mask, (20, 30), (230, 200), 255, 3, cv2.LINE_AA)
    covered[mask > 127] = (30, 22, 20)
    layer = lifted_layer(covered, None)
    error = np.abs(layer.over(skin).astype(int) - covered).mean(axis=2)
    before = np.abs(skin.astype(int) - covered).mean(axis=2)
    assert error[mask > 127].mean() < 0.25 * before[mask > 127].mean()
    assert error[mask == 0].mean() < 1


def test_where_nothing_is_found_nothing_is_lifted(skin: np.ndarray) -> None:
    grey = np.full_like(skin, 150)
    assert np.array_equal(lifted_layer(grey, None).over(skin), skin)


def test_jpeg_of_tensors_is_that_of_the_library(skin: np.ndarray) -> None:
    picture = torch.from_numpy(skin).permute(2, 0, 1)[None].float() / 255
    for quality in (30, 75):
        _, coded = cv2.imencode(".jpg", skin[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        theirs = cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
        ours = jpeg(picture, torch.tensor([float(quality)]))[0].permute(1, 2, 0).numpy() * 255
        # The library rounds to bytes between its steps, and enlarges colour otherwise.
        assert np.abs(ours - theirs).mean() < 0.6 * np.abs(skin - theirs).mean()


def test_blur_of_tensors_is_that_of_the_library(skin: np.ndarray) -> None:
    picture = torch.from_numpy(skin).permute(2, 0, 1)[None].float()
    theirs = cv2.GaussianBlur(skin.astype(np.float32), (9, 9), 1.3)
    ours = blurred(picture, torch.tensor([1.3]))[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).max() < 0.1


def test_covered_crops_differ_where_their_map_says_so() -> None:
    torch.manual_seed(5)
    dark = np.full((SIDE, SIDE, 3), 255, np.uint8)
    dark[:, ::16] = 0
    layer = Layer(dark, np.zeros_like(dark))
    loader = LaidOver(phantom_backgrounds(1), make_bank(1, [layer], seed=1), CPU, crop=32, batch_size=4, steps=3)
    for covered, clean, mask, unknown in loader:
        assert covered.shape == clean.shape == (4, 3, *covered.shape[2:])
        assert mask.shape == unknown.shape == (4, 1, *covered.shape[2:])
        assert all(0 <= float(part.min()) <= float(part.max()) <= 1 for part in (covered, clean, mask, unknown))
        assert float(mask.sum()) > 0
        error = (covered - clean).abs().mean(dim=1, keepdim=True)
        assert float((error * mask).sum() / mask.sum()) > 3 * float((error * (1 - mask)).sum() / (1 - mask).sum())


def test_the_error_of_real_pairs_is_counted_where_they_differ_clearly(skin: np.ndarray) -> None:
    clean = np.full((40, 50, 3), 150, np.uint8)
    covered = clean.copy()
    covered[10:12] = 50  # hair: 100 levels away
    covered[12] = 126  # 24: not yet
    case = pair_case(covered, clean)
    assert case is not None
    assert case.mask.sum() == 2 * 50

    def halved(picture: np.ndarray) -> np.ndarray:
        return np.where(picture == 50, 130, picture).astype(np.uint8)

    found = measure(halved, [case, case])
    assert (found.before.mean, found.after.mean, found.share.mean) == (100, 20, 0.2)
    assert found.outside.mean == pytest.approx(24 / 38)
    assert pair_case(clean, clean) is None
