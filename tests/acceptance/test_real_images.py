"""Real dermoscopic images and real DICOM files, where they lie beside the checkout."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import dermbatch, failures, results

from dermbatch.stages import Stage
from tests.pages import page

DATA = Path(__file__).parents[2].parent / "shared" / "data"

pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the real images in {DATA}"),
]


def test_real_photographs_and_dicom_files_give_results_or_clear_failures(tmp_path):
    photographs = [path.with_name(path.name.replace("_segmentation.png", ".jpg")) for path in masks()[:6]]
    photographs = [DATA / "isic_native" / "images" / path.name for path in photographs]
    cv2.imwrite(str(tmp_path / "page.png"), page())
    inputs = [*photographs, tmp_path / "page.png", DATA / "dicom_isic2020", DATA / "dicom_testfiles"]
    ended = dermbatch("run", *inputs, "--out", tmp_path / "out", timeout=280)
    found, failed = results(tmp_path / "out"), failures(tmp_path / "out")
    assert ended.code == 1, ended.err
    assert len(found) + len(failed) == 6 + 1 + 15 + 15
    assert {name: failure.reason for name, failure in failed.items()} == {
        "dicom_testfiles/SC_rgb_small_odd_jpeg.dcm": "too_small",  # 3 x 3 pixels
        "dicom_testfiles/examples_ybr_color.dcm": "not_a_skin_image",  # an ultrasound loop
    }
    whole = found["page.png"].stages[Stage.CLASSIFY].output
    assert (whole.label, whole.probabilities) == (None, {})
    assert "not_dermoscopic" in found["page.png"].flags
    assert "No dermoscopic image, by the classifier" in (tmp_path / "out" / "report.html").read_text()
    lesions = [path.name for path in photographs] + [name for name in found if name.startswith("dicom_isic2020/")]
    assert len(lesions) == 6 + 15
    assert not [name for name in lesions if "not_dermoscopic" in found[name].flags]
    overlaps = []
    for path in photographs:
        mask = cv2.imread(str(tmp_path / "out" / found[path.name].stages[Stage.SEGMENT].artifacts["mask.png"]), 0)
        true = cv2.imread(str(DATA / "isic_native" / "masks" / f"{path.stem}_segmentation.png"), 0)
        assert mask.shape == true.shape
        overlaps.append(((mask > 0) & (true > 0)).sum() / ((mask > 0) | (true > 0)).sum())
    assert np.mean(overlaps) > 0.75


def masks():
    return sorted((DATA / "isic_native" / "masks").iterdir())
