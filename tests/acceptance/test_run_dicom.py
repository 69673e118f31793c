"""``dermbatch run --dicom``: objects beside the results, the same when the run is repeated elsewhere."""

import pytest
from commands import dermbatch, results
from pydicom import dcmread

from dermbatch.phantoms.samples import write_samples


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two DICOM files and a photograph."""
    folder = tmp_path_factory.mktemp("dicom") / "images"
    for path in write_samples(folder, 9):
        if path.suffix != ".dcm" and path.stem != "phantom_0000":
            path.unlink()
    assert len(list(folder.iterdir())) == 3
    return folder


def test_objects_are_beside_the_results_of_dicom_sources(images, tmp_path):
    ended = dermbatch("run", images, "--out", tmp_path / "out", "--dicom", "--batch", "first")
    assert ended.code == 0, ended.err
    assert "with DICOM objects" in ended.out
    found = results(tmp_path / "out")
    written = {path for path in (tmp_path / "out").glob("batches/first/dicom/**/*") if path.is_file()}
    named = {tmp_path / "out" / key for record in found.values() for key in record.dicom.values()}
    assert written == named
    assert [record.no_dicom for name, record in found.items() if name.endswith(".jpg")] == ["not_dicom"]
    for name, record in found.items():
        if name.endswith(".dcm"):
            source = dcmread(images / name.rpartition("/")[2])
            assert set(record.dicom) == {"segmentation", "report", "enhanced"}
            for key in record.dicom.values():
                assert dcmread(tmp_path / "out" / key).StudyInstanceUID == source.StudyInstanceUID
    again = dermbatch("run", images, "--out", tmp_path / "other", "--dicom", "--batch", "first")
    assert again.code == 0, again.err
    for path in written:
        assert (tmp_path / "other" / path.relative_to(tmp_path / "out")).read_bytes() == path.read_bytes()


def test_without_the_option_there_are_none(images, tmp_path):
    ended = dermbatch("run", images, "--out", tmp_path / "out", "--stages", "segment")
    assert ended.code == 0, ended.err
    assert "DICOM objects" not in ended.out
    assert not list((tmp_path / "out").glob("batches/*/dicom"))
