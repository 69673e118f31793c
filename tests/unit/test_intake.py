import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from dermbatch.errors import PermanentError, UsageError
from dermbatch.settings import Settings
from orchestrator.planning.intake import Candidate, Intake, Skipped


def png():
    return cv2.imencode(".png", np.zeros((20, 20, 3), np.uint8))[1].tobytes()


@pytest.fixture
def intake():
    return Intake(Settings(), None, in_place=False)


def walk(intake, *inputs):
    return list(intake.walk([str(given) for given in inputs]))


def test_a_folder_gives_its_images_in_order_and_passes_over_the_rest(intake, tmp_path):
    folder = tmp_path / "scan"
    (folder / "b").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ("b/2.JPG", "a.png", "b/no suffix", ".git/x.png"):
        (folder / name).write_bytes(png())
    for name in ("labels.csv", ".DS_Store", "b/notes"):
        (folder / name).write_text("text")
    found = walk(intake, folder)
    assert [one.name for one in found if isinstance(one, Candidate)] == [
        "scan/a.png",
        "scan/b/2.JPG",
        "scan/b/no suffix",
    ]
    assert {one.name for one in found if isinstance(one, Skipped)} == {
        "scan/labels.csv",
        "scan/.DS_Store",
        "scan/b/notes",
    }
    assert found[0].name == "scan/.DS_Store"
    assert all(one.read() == png() for one in found if isinstance(one, Candidate))


def test_a_file_that_was_named_is_always_answered_for(intake, tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    (one,) = walk(intake, tmp_path / "notes.txt")
    assert isinstance(one, Candidate)
    assert one.read() == b"text"


def test_a_broken_link_with_an_images_name_is_a_failure_not_silence(intake, tmp_path):
    folder = tmp_path / "scan"
    folder.mkdir()
    (folder / "lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(folder / "pipe.png")
    assert [one.refusal.reason for one in walk(intake, folder)] == ["unreadable", "unreadable"]


def test_a_file_that_vanishes_after_the_listing_is_a_failure(intake, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png())
    (one,) = walk(intake, path)
    path.unlink()
    with pytest.raises(PermanentError) as error:
        one.read()
    assert error.value.reason == "unreadable"


def test_names_that_are_not_utf8_can_be_written_down(intake, tmp_path):
    folder = tmp_path / "scan"
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9 'x\".png")).write_bytes(png())
    (one,) = walk(intake, folder)
    assert one.name.encode()
    assert one.read() == png()


def test_an_archive_gives_its_members_and_refuses_what_leaves_it(intake, tmp_path):
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("study/1.png", png())
        archive.writestr("study/readme.txt", "text")
        archive.writestr("../evil.png", png())
    found = {one.name: one for one in walk(intake, path)}
    assert found["export.zip/study/1.png"].read() == png()
    assert isinstance(found["export.zip/study/readme.txt"], Skipped)
    refused = [one for one in found.values() if isinstance(one, Candidate) and one.refusal]
    assert [one.refusal.reason for one in refused] == ["zip_slip"]


def test_a_text_called_zip_is_one_failure(intake, tmp_path):
    path = tmp_path / "export.zip"
    path.write_text("not a zip")
    (one,) = walk(intake, path)
    assert one.refusal.reason == "zip_corrupt"


def test_inputs_that_cannot_be_are_said_at_once(intake, tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        intake.check([str(tmp_path / "nothing")])
    with pytest.raises(UsageError, match="s3://"):
        intake.check(["s3://"])


def test_hidden_files_and_linked_folders_are_passed_over_but_counted(intake, tmp_path):
    folder = tmp_path / "scan"
    folder.mkdir()
    (folder / "._a.jpg").write_bytes(b"sidecar")
    (folder / "round").symlink_to(folder)
    (folder / "guide.pdf").write_bytes(b"%PDF-1.7")
    assert {one.name for one in walk(intake, folder)} == {"scan/._a.jpg", "scan/round", "scan/guide.pdf"}
    assert all(isinstance(one, Skipped) for one in walk(intake, folder))


def test_a_file_that_would_not_fit_into_memory_is_not_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png())
    settings = Settings()
    small = settings.model_copy(update={"worker": settings.worker.model_copy(update={"max_bytes": 10})})
    (one,) = Intake(small, None, in_place=False).walk([str(path)])
    assert one.refusal.reason == "too_large"


def test_a_folder_that_cannot_be_read_is_a_failure(intake, tmp_path, monkeypatch):
    folder = tmp_path / "scan"
    (folder / "closed").mkdir(parents=True)
    real = os.scandir

    def scandir(path):  # root may read every folder, so the system's answer is played
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    (one,) = walk(intake, folder)
    assert (one.name, one.refusal.reason) == ("scan/closed", "unreadable")


def test_results_below_an_input_are_no_input(tmp_path):
    for name in ("a.png", "out/images/mask.png", "outer/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    intake = Intake(Settings(), None, in_place=False, leave_out=tmp_path / "out")
    assert [Path(one.name).name for one in walk(intake, tmp_path)] == ["a.png", "b.png"]
