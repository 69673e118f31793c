"""Inputs made after public bug reports (../shared/cases): the right picture, de-identified or not, or a reason.

Cases of the same kinds that are made here are in `test_native_pixels.py` (uncompressed DICOM),
`test_coded_pixels.py` (compressed) and `test_other_pictures.py` (TIFF, PNG, JPEG and others); of measures, below.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.drawn import (
    LOSSY,
    apart,
    both_are,
    cleaned,
    counted,
    image,
    read,
    refusal,
)

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"
REFUSED = {
    "31-native-no-photometricinterpretation": ("corrupt", "Photometric Interpretation (0028,0004) is missing"),
    "108-dng-like-subifd": ("unsupported_format", "DNG"),
    "135-tiff-float32": ("unsupported_format", "floating point"),
}
"""Cases with true pixels that are refused anyway, and why: nothing proves what is meant."""


def folders() -> list[Path]:
    return sorted(path.parent for path in CASES.glob("*/truth.npz"))


@pytest.mark.shared_data
@pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the cases in {CASES}")
@pytest.mark.parametrize("folder", [path.name for path in folders()])
def test_every_case_gives_its_true_picture_or_a_reason(folder):
    truth = np.load(CASES / folder / "truth.npz")["pixels"].astype(int)
    (path,) = (path for path in (CASES / folder).iterdir() if path.suffix != ".npz")
    data = path.read_bytes()
    if folder in REFUSED:
        refused = refusal(data)
        assert refused.reason == REFUSED[folder][0]
        assert REFUSED[folder][1] in str(refused)
    elif truth.ndim == 4:
        assert counted(data) == counted(cleaned(data)) == len(truth)
        for number, one in enumerate(truth, 1):
            assert apart(read(data, number), one) < LOSSY
            assert apart(read(cleaned(data), number), one) < LOSSY
    else:
        both_are(data, truth, LOSSY)


@pytest.mark.shared_data
@pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the cases in {CASES}")
@pytest.mark.parametrize("name", ["IMG_0001.HEIC", "scan.jp2", "x.avif"])
def test_pictures_of_telephones_are_taken(name):
    folder = CASES / "131-heic-jp2-avif-in-folder"
    truth = read((folder / "ok.png").read_bytes()).pixels.astype(int)
    assert apart(read((folder / name).read_bytes()), truth) < LOSSY


@pytest.mark.shared_data
@pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the cases in {CASES}")
@pytest.mark.parametrize(
    ("folder", "spacing", "note"),
    [
        ("200-spacing-decimal-comma", (0.05, 0.05), "spacing_decimal_comma"),
        ("202-spacing-vr-ut", (0.05, 0.05), None),
        ("204-spacing-one-value", None, "spacing_unusable"),
        ("210-spacing-1-1-placeholder", None, "spacing_placeholder"),
    ],
)
def test_measures_are_true_or_none(folder, spacing, note):
    data = (CASES / folder / "a.dcm").read_bytes()
    found = read(data)
    assert found.pixel_spacing_mm == spacing
    assert note is None or note in found.notes
    assert read(cleaned(data)).pixel_spacing_mm == spacing


def test_a_pixel_aspect_ratio_is_kept_where_there_is_no_spacing():
    data = image(PixelSpacing=None, PixelAspectRatio=[2, 1])
    found = both_are(data)
    assert (found.pixel_spacing_mm, found.pixel_aspect) == (None, 2.0)
    contradicted = read(image(PixelSpacing=["0.05", "0.05"], PixelAspectRatio=[2, 1]))
    assert contradicted.pixel_spacing_mm is None
    assert contradicted.notes == ("spacing_contradicts_aspect",)


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({"PixelSpacing": ["1e-9", "1e-9"]}, "spacing_unusable"),
        ({"PixelSpacing": None, "PixelAspectRatio": [0, 0]}, "pixel_aspect_unusable"),
        ({"PixelSpacing": None, "PixelAspectRatio": [1000, 1]}, "pixel_aspect_unusable"),
        ({"PixelSpacing": None, "PixelAspectRatio": 2}, "pixel_aspect_unusable"),
    ],
)
def test_measures_that_cannot_be_are_none(values, note):
    found = read(image(**values))
    assert (found.pixel_spacing_mm, found.pixel_aspect) == (None, None)
    assert note in found.notes
