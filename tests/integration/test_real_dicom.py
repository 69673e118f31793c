"""Real DICOM files (../shared/data): their pixels, frames and names, and what becomes of whole folders."""

import hashlib
import io
import shutil
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydantic import SecretStr
from pydicom import dcmread
from pydicom.pixels.utils import pixel_array

from dermbatch.errors import BadInput
from dermbatch.images.dicomfile import decode_pixels
from dermbatch.images.imagefile import read_image
from dermbatch.images.quiet import quiet
from dermbatch.settings import Settings
from orchestrator.planning.intake.candidates import Candidate
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.privacy.deidentify import deidentify
from orchestrator.planning.privacy.profile import Profile
from orchestrator.planning.privacy.pseudonyms import Pseudonyms
from tests import corpus
from tests.drawn import counted, read, reason

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ROUNDING = 3  # libjpeg, which pydicom asks, and libjpeg-turbo may differ by so much (ISO/IEC 10918-2)
FLAGGED = Profile(name="test", burned_in_text="flag")
PSEUDONYMS = Pseudonyms(SecretStr("a salt for tests, and long enough"))


@pytest.mark.shared_data
def test_real_dermoscopic_files_decode_as_pydicom_decodes_them():
    folder = SHARED / "dicom_isic2020"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    files = sorted(folder.glob("*.dcm"))
    assert len(files) == 15
    for path in files:
        data = path.read_bytes()
        image = read(data)
        assert image.notes == ()
        # Skin, not green or violet: red is the strongest colour on the whole.
        mean = image.pixels[::8, ::8].reshape(-1, 3).mean(axis=0)
        assert mean[0] >= mean[1] * 0.98 > mean[2] * 0.9
        if len(data) < 60_000:
            reference = pixel_array(pydicom.dcmread(io.BytesIO(data)), raw=False)
            assert np.abs(image.pixels.astype(int) - reference).max() <= ROUNDING


@pytest.mark.shared_data
def test_files_of_every_encoding_show_their_colours():
    folder = SHARED / "dicom_testfiles"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    bars = [(255, 0, 0), (255, 128, 128), (0, 255, 0), (128, 255, 128), (0, 0, 255), (128, 128, 255)]
    seen = 0
    for path in sorted(folder.glob("SC_*.dcm")):
        with quiet():
            rows = pydicom.dcmread(path, stop_before_pixels=True).Rows
        if rows != 100:
            continue
        pixels = read(path.read_bytes()).pixels
        for i, bar in enumerate(bars):
            assert np.abs(pixels[i * 10 + 5, 50].astype(int) - bar).max() <= 6, (path.name, i)
        seen += 1
    assert seen == 7
    refusals = {
        path.name: reason(path.read_bytes())
        for path in folder.glob("*.dcm")
        if path.name in ("SC_rgb_small_odd_jpeg.dcm", "examples_ybr_color.dcm")
    }
    assert refusals == {"SC_rgb_small_odd_jpeg.dcm": "too_small", "examples_ybr_color.dcm": "not_a_skin_image"}
    odd, _ = decode_pixels(pydicom.dcmread(folder / "SC_rgb_small_odd_jpeg.dcm"))
    assert odd.shape == (3, 3, 3)
    for path in folder.glob("VL*.dcm"):
        assert read(path.read_bytes()).pixels.shape[2] == 3


@pytest.mark.shared_data
def test_real_files_have_one_frame_each():
    folders = [SHARED / name for name in ("dicom_isic2020", "dicom_testfiles")]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip(f"there is no {SHARED}")
    paths = [path for folder in folders for path in folder.glob("*.dcm")]
    assert len(paths) == 30
    assert {counted(path.read_bytes()) for path in paths} == {1}


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the real images in {SHARED}")
@pytest.mark.parametrize("folder", ["dicom_isic2020", "dicom_testfiles"])
def test_real_files_keep_their_pixels_and_lose_their_names(folder):
    refused, patients = set(), set()
    for path in sorted((SHARED / folder).glob("*.dcm")):
        data = path.read_bytes()
        try:
            made = deidentify(data, FLAGGED, PSEUDONYMS, max_pixels=10**8)
            expected = read_image(data, max_pixels=10**8)
        except BadInput:
            refused.add(path.name)
            continue
        found = read_image(made.data, max_pixels=10**8)
        assert np.array_equal(found.pixels, expected.pixels), path.name
        assert found.pixel_spacing_mm == expected.pixel_spacing_mm
        patients.add(made.patient)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = dcmread(BytesIO(data), force=True, stop_before_pixels=True)
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "SOPInstanceUID", "InstitutionName"):
            value = str(dataset.get(keyword, "")).strip("\" '")
            assert len(value) < 5 or value.encode() not in made.data, (path.name, keyword)
    assert refused == (
        set() if folder == "dicom_isic2020" else {"SC_rgb_small_odd_jpeg.dcm", "examples_ybr_color.dcm"}
    )
    assert len(patients) == (15 if folder == "dicom_isic2020" else 7)


def decided(items):
    """By content: what each candidate that can be read comes to; and the names of those that cannot be."""
    found = {}
    for one in items:
        assert isinstance(one, Candidate)
        assert one.refusal is None
        data = one.read()
        try:
            read_image(data, max_pixels=120_000_000, frame=one.frame)
        except BadInput as refused:
            found[hashlib.sha256(data).hexdigest()] = refused.reason
        else:
            found[hashlib.sha256(data).hexdigest()] = "ok"
    return found


@pytest.mark.shared_data
def test_real_files_are_decided_alike_loose_in_a_dicomdir_export_and_in_archives(tmp_path):
    """With names as a PACS gives them; all but one too small and one ultrasound image are taken."""
    files = [
        path for part in ("dicom_isic2020", "dicom_testfiles") for path in sorted((SHARED / part).glob("*.dcm"))
    ]
    if not files:
        pytest.skip(f"there is no {SHARED}")
    assert len(files) == 30
    files = [path for path in files if path.stat().st_size < 2_000_000]  # what is large takes long
    intake, folder = Intake(Settings(), None, in_place=False), tmp_path / "export"
    (folder / "DICOM").mkdir(parents=True)
    for number, path in enumerate(files):
        shutil.copy(path, folder / "DICOM" / f"IM{number:06d}")
    refused = sorted(reason for reason in decided(intake.walk([str(folder)])).values() if reason != "ok")
    assert refused == ["not_a_skin_image", "too_small"]
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    shutil.make_archive(str(tmp_path / "a"), "zip", folder)
    shutil.make_archive(str(tmp_path / "b"), "gztar", folder)
    (folder / "DICOMDIR").write_bytes(corpus.dicomdir(*(("DICOM", f"IM{n:06d}") for n in range(len(files)))))
    for given in (tmp_path / "a.zip", tmp_path / "b.tar.gz", folder / "DICOMDIR"):
        assert {hashlib.sha256(one.read()).hexdigest() for one in intake.walk([str(given)])} == digests
