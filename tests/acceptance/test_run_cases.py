"""Odd inputs (../shared/cases) by ``dermbatch run``, de-identified and not: the right pictures, or reasons."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import dermbatch, failures, results

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"
SALT = {"DERMBATCH_PRIVACY__SALT": "0123456789abcdef" * 4}
TAKEN = {
    "01-jpeg-tag-rgb-data-ycc420": "corrected_photometric_interpretation",
    "09-jll-rgb-planar1": "corrected_planar_configuration",
    "25-jpeg-zeros-before-soi": None,
    "41-jpeg-no-meta-at-all": "corrected_transfer_syntax_uid",
    "45-three-frames-no-numberofframes": "corrected_number_of_frames",
    "48-palette-16bit-low-byte-only": "corrected_palette",
    "60-native-tag-422-data-full": "corrected_photometric_interpretation",
    "98-tiff-16bit-planar2": "from_16_bit",
    "107-tiff-thumb-first": None,
}
"""Cases, and a note that their records have where they keep their identity."""
REFUSED = {"31-native-no-photometricinterpretation": "corrupt", "108-dng-like-subifd": "unsupported_format"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases") / "in"
    folder.mkdir()
    for name in (*TAKEN, *REFUSED):
        (path,) = (path for path in (CASES / name).iterdir() if path.suffix != ".npz")
        shutil.copy(path, folder / f"{name}{path.suffix}")
    return folder


def apart(picture, names):
    """Mean difference to the nearest of the true pictures of these cases; a case may have several frames."""
    truths = [np.load(CASES / name / "truth.npz")["pixels"] for name in names]
    frames = [
        one for truth in truths for one in truth.reshape(-1, *truth.shape[-3:]) if one.shape == picture.shape
    ]
    return min(float(np.abs(picture.astype(int) - one).mean()) for one in frames)


@pytest.mark.shared_data
@pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the cases in {CASES}")
@pytest.mark.parametrize("deidentified", [False, True])
def test_odd_inputs_end_in_their_pictures_or_reasons(inputs, tmp_path, deidentified):
    out, more = tmp_path / "out", ()
    if deidentified:
        profile = tmp_path / "profile.yaml"
        profile.write_text("name: p\nburned_in_text: flag\n")
        more = ("--deidentify", profile)
    ended = dermbatch("run", inputs, "--out", out, "--stages", "purify", *more, env=SALT)
    assert ended.code == 1, ended.err
    found = results(out)
    assert len(found) == len(TAKEN) + 2  # one has three frames
    for name, record in found.items():
        purified = cv2.imread(str(out / record.stages["purify"].artifacts["purified.png"]))[..., ::-1]
        cases = [case for case in TAKEN if case in name] or list(TAKEN)  # a copy's name says nothing
        assert apart(purified, cases) < 6, name  # some of it may be taken for hair
        note = None if deidentified else TAKEN[cases[0]]
        assert note is None or note in record.source.notes
    reasons = sorted(record.reason for record in failures(out).values())
    assert reasons == sorted(REFUSED.values())
    assert not [record.message for record in failures(out).values() if "Error" in record.message]
