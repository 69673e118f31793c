"""Phantoms: deterministic, true to their masks, cheap to draw on."""

from __future__ import annotations

import cv2
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermbatch.phantoms.occlusion import draw_bubbles, draw_hairs, draw_ink, draw_ruler
from dermbatch.phantoms.phantom import KINDS, OCCLUSIONS, phantom
from dermbatch.phantoms.samples import write_samples
from dermbatch.phantoms.skin import draw_vignette

DRAW = [draw_hairs, draw_ruler, draw_ink, draw_bubbles]


def skin(height: int = 96, width: int = 128) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(rng.normal((220, 180, 160), 6, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("draw", DRAW, ids=lambda f: f.__name__)
@given(seed=st.integers(0, 2**32), height=st.integers(16, 200), width=st.integers(16, 200))
@settings(max_examples=25, deadline=None)
def test_drawing_changes_nothing_outside_its_mask_and_leaves_its_input_alone(draw, seed, height, width):
    before = skin(height, width)
    kept = before.copy()
    after, mask = draw(before, np.random.default_rng(seed))
    assert (before == kept).all()
    assert after.shape == before.shape
    assert after.dtype == np.uint8
    assert mask.shape == (height, width)
    assert mask.dtype == np.bool_
    assert (after[~mask] == before[~mask]).all()


@pytest.mark.parametrize("draw", DRAW, ids=lambda f: f.__name__)
def test_drawing_is_seen_inside_its_mask(draw):
    for seed in range(12):
        before = skin(256, 256)
        after, mask = draw(before, np.random.default_rng(seed), count=12)
        change = np.abs(after.astype(int) - before).max(axis=2)
        assert mask.mean() < 0.6
        if mask.any():  # strokes may fall outside of the picture
            assert change[mask].mean() > 4, seed


def test_hairs_are_thin_and_long():
    """A hair's mask is far longer than wide: its skeleton length by distance transform."""
    for seed in range(8):
        _, mask = draw_hairs(skin(400, 400), np.random.default_rng(seed), count=10)
        width = 2 * cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5).max()
        assert width < 400 * 0.08
        assert mask.sum() > 10 * width


def test_count_decides_how_much_is_drawn():
    few = draw_hairs(skin(256, 256), np.random.default_rng(3), count=3).mask.sum()
    many = draw_hairs(skin(256, 256), np.random.default_rng(3), count=40).mask.sum()
    assert 3 * few < many


@pytest.mark.parametrize("kind", KINDS)
def test_lesion_mask_is_one_piece_on_what_differs_from_the_skin(kind):
    for seed in range(6):
        drawn = phantom(seed, height=240, width=320, kind=kind, occlusions=())
        assert drawn.kind == kind
        assert not drawn.occlusion.any()
        assert (drawn.image == drawn.clean).all()
        assert 0.01 < drawn.lesion.mean() < 0.7
        pieces, _ = cv2.connectedComponents(drawn.lesion.astype(np.uint8), connectivity=8)
        assert pieces == 2
        # In the middle of the picture, where no vignette reaches, the lesion is darker than skin around it.
        near = cv2.dilate(drawn.lesion.astype(np.uint8), np.ones((31, 31))).astype(bool)
        far = near & ~cv2.dilate(drawn.lesion.astype(np.uint8), np.ones((13, 13))).astype(bool)
        assert drawn.clean[drawn.lesion].mean() < drawn.clean[far].mean() - 8, (kind, seed)


def test_same_seed_same_phantom_and_occlusions_leave_the_clean_picture_alone():
    size = {"height": 240, "width": 320}
    first, again, other = (phantom(seed, **size) for seed in (5, 5, 6))
    assert (first.image == again.image).all()
    assert first.occlusions == again.occlusions
    assert (first.image != other.image).any()
    bare = phantom(5, **size, occlusions=())
    full = phantom(5, **size, occlusions=OCCLUSIONS)
    assert (bare.clean == full.clean).all()
    assert full.occlusions == OCCLUSIONS
    assert (full.image[~full.occlusion] == full.clean[~full.occlusion]).all()
    assert full.pixel_spacing_mm[0] == pytest.approx(15.5 / 320, rel=0.35)


def test_vignette_darkens_corners_only():
    before = skin(200, 300)
    after = draw_vignette(before, np.random.default_rng(1))
    assert after[:8, :8].mean() < 0.5 * before[:8, :8].mean()
    assert np.abs(after[90:110, 140:160].astype(int) - before[90:110, 140:160]).max() <= 1


def test_samples_are_readable_files_with_truth_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("dermbatch.phantoms.samples._SIZES", ((96, 128), (81, 95)))
    folder, truth = tmp_path / "in", tmp_path / "truth"
    paths = write_samples(folder, 9, seed=3, truth=truth)
    assert sorted(folder.iterdir()) == sorted(paths)
    assert {p.suffix for p in paths} == {".jpg", ".png", ".dcm", ".tif", ".webp", ".bmp"}
    for path in paths:
        if path.suffix == ".dcm":
            data = pydicom.dcmread(path)
            pixels = data.pixel_array
            assert float(data.PixelSpacing[0]) > 0
        else:
            pixels = cv2.imread(str(path))
        name = path.stem.removesuffix("_sc")
        lesion = cv2.imread(str(truth / f"{name}_lesion.png"), cv2.IMREAD_UNCHANGED)
        assert lesion.shape == pixels.shape[:2]
        assert set(np.unique(lesion)) == {0, 255}
        assert (truth / f"{name}_occlusion.png").is_file()
    again = write_samples(tmp_path / "again", 3, seed=3)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths[:3]]


def test_truth_inside_the_samples_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="outside"):
        write_samples(tmp_path, 1, truth=tmp_path / "truth")
