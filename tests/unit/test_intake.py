import gzip
import os
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import cv2
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dermbatch.errors import PermanentError, UsageError
from dermbatch.phantoms.samples import dicom
from dermbatch.records.asked import Filters
from dermbatch.settings import Settings
from orchestrator.planning.intake.candidates import Candidate, Skipped
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.intake.leaf import suffix_of
from tests import corpus

pytestmark = pytest.mark.usefixtures("shared_nursery")


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
        "scan/.git",
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


def test_what_cannot_be_read_and_does_not_look_like_an_image_is_passed_over(intake, tmp_path):
    folder = tmp_path / "scan"
    folder.mkdir()
    for name in (".lost.png", "lost", "lost.txt", "lost.zip"):
        (folder / name).symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe")
    *skipped, lost = sorted(walk(intake, folder), key=lambda one: isinstance(one, Candidate))
    assert [one.name for one in skipped] == ["scan/.lost.png", "scan/lost", "scan/lost.txt", "scan/pipe"]
    assert (lost.name, lost.refusal.reason) == ("scan/lost.zip", "unreadable")
    assert [one.refusal.reason for one in walk(intake, folder / "pipe")] == ["unreadable"]


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


@pytest.mark.usefixtures("closed_is_closed")
def test_a_folder_that_cannot_be_read_is_a_failure(intake, tmp_path):
    folder = tmp_path / "scan"
    (folder / "closed").mkdir(parents=True)
    (one,) = walk(intake, folder)
    assert (one.name, one.refusal.reason) == ("scan/closed", "unreadable")


def test_results_below_an_input_are_no_input(tmp_path):
    for name in ("a.png", "out/images/mask.png", "outer/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    intake = Intake(Settings(), None, in_place=False, leave_out=tmp_path / "out")
    assert [Path(one.name).name for one in walk(intake, tmp_path)] == ["a.png", "b.png"]


def names(items):
    return [one.name for one in items if isinstance(one, Candidate)]


def resumed(intake, given, found):
    """What each position of a walk goes on with, which has to be what came after it."""
    walked = intake.walk([str(given)])
    for number, item in enumerate(found, 1):
        assert [one.name for one in walked.begin(item.position)] == [one.name for one in found[number:]]


def test_each_frame_is_an_image_and_a_walk_goes_on_between_them(intake, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    film = corpus.frames(corpus.DRAWN.image, corpus.DRAWN.image[::-1], corpus.DRAWN.image[:, ::-1])
    (folder / "1.2.840.5.77").write_bytes(film)
    (folder / "a.png").write_bytes(png())
    (folder / "b.tgz").write_bytes(corpus.tarred({"IM1": film, "x.png": png()}, "w:gz"))
    (folder / "c.dcm").write_bytes(corpus.frames(corpus.DRAWN.image, declared=1001))
    found = walk(intake, folder)
    assert names(found) == [
        "export/1.2.840.5.77#frame=1",
        "export/1.2.840.5.77#frame=2",
        "export/1.2.840.5.77#frame=3",
        "export/a.png",
        "export/b.tgz/IM1#frame=1",
        "export/b.tgz/IM1#frame=2",
        "export/b.tgz/IM1#frame=3",
        "export/b.tgz/x.png",
        "export/c.dcm",
    ]
    assert [one.frame for one in found] == [1, 2, 3, None, 1, 2, 3, None, None]
    assert found[0].read is found[2].read
    assert found[-1].refusal.reason == "multi_frame"
    resumed(intake, folder, found)
    for one in (folder / "1.2.840.5.77", folder / "b.tgz"):
        resumed(intake, one, walk(intake, one))


def test_a_file_that_was_replaced_between_its_images_gives_none_twice_and_no_silent_failure(intake, tmp_path):
    film, packed = tmp_path / "film.dcm", tmp_path / "set.zip"
    film.write_bytes(corpus.frames(corpus.DRAWN.image, corpus.DRAWN.image))
    packed.write_bytes(corpus.zipped({"a.png": png(), "b.png": png()}))
    first, inside = walk(intake, film)[0].position, walk(intake, packed)[0].position
    film.write_bytes(png())
    packed.write_bytes(b"PK no archive")
    assert list(intake.walk([str(film)]).begin(first)) == []
    (one,) = intake.walk([str(packed)]).begin(inside)
    assert (one.name, one.refusal.reason, one.position.taken) == ("set.zip", "zip_corrupt", 0)


def test_archives_are_known_by_content_without_an_ending_or_where_named(intake, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("a", "b.1", "c.png"):
        (folder / name).write_bytes(corpus.zipped({"in.png": png()}))
    assert names(walk(intake, folder)) == ["export/a/in.png", "export/c.png"]
    assert names(walk(intake, folder / "c.png")) == ["c.png/in.png"]


def test_without_unpacking_only_what_has_no_images_name_is_unpacked(tmp_path):
    film = corpus.frames(corpus.DRAWN.image, corpus.DRAWN.image)
    path = tmp_path / "set.zip"
    path.write_bytes(corpus.zipped({"a.png": png(), "film.dcm": film, "IM1": film, "notes": b"text"}))
    found = []
    for one in Intake(Settings(), None, in_place=False).walk([str(path)], unpack=False):
        found.append((one.name, isinstance(one, Candidate) and (one.packed, one.frame, one.size, len(one.read()))))
    assert found == [
        ("set.zip/a.png", (True, None, len(png()), len(png()))),
        ("set.zip/film.dcm", (True, None, len(film), len(film))),
        ("set.zip/IM1#frame=1", (True, 1, len(film), len(film))),
        ("set.zip/IM1#frame=2", (True, 2, len(film), len(film))),
        ("set.zip/notes", False),
    ]


def test_archives_of_all_kinds_are_known_by_name_or_content(intake, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    files = {"a.png": png()}
    inner = corpus.zipped(files)
    (folder / "ARCHIVE").write_bytes(corpus.tarred(files))
    (folder / "nested.tar").write_bytes(corpus.tarred({"in.zip": inner}))
    (folder / "one.TGZ").write_bytes(corpus.tarred(files, "w:gz"))
    (folder / "two.tar.gz").write_bytes(corpus.tarred(files, "w:gz"))
    (folder / "notes.gz").write_bytes(corpus.tarred(files, "w:gz"))
    (folder / "notes.txt.gz").write_bytes(gzip.compress(b"words"))
    found = walk(intake, folder)
    assert names(found) == [f"export/{name}" for name in (
        "ARCHIVE/a.png", "nested.tar/in.zip/a.png", "notes.gz/a.png", "one.TGZ/a.png", "two.tar.gz/a.png"
    )]  # fmt: skip
    assert [one.name for one in found if isinstance(one, Skipped)] == ["export/notes.txt.gz"]


def test_a_nested_archive_that_is_excluded_is_left_out(tmp_path):
    path = tmp_path / "set.zip"
    path.write_bytes(corpus.zipped({"old/in.zip": corpus.zipped({"a.png": png()}), "b.png": png()}))
    intake = Intake(Settings(), None, in_place=False, filters=Filters(exclude=("*old/in.zip",)))
    assert names(walk(intake, path)) == ["set.zip/b.png"]


def test_a_tar_cut_in_the_middle_gives_what_it_has_and_a_failure(intake, tmp_path):
    path = tmp_path / "set.tar"
    path.write_bytes(corpus.tarred({"a.png": png(), "b.png": png()})[:1030])
    first, last = walk(intake, path)
    assert (first.name, first.refusal) == ("set.tar/a.png", None)
    assert (last.name, last.refusal.reason) == ("set.tar", "zip_corrupt")
    resumed(intake, path, [first, last])


def export(folder):
    """A DICOMDIR export: photographs in folders of capitals, one of several frames, and a report."""
    (folder / "IMAGES").mkdir(parents=True)
    cases = corpus.dicoms()
    (folder / "IMAGES" / "IM1").write_bytes(cases["photo.dcm"][0])
    (folder / "IMAGES" / "IM2").write_bytes(cases["frames.dcm"][0])
    (folder / "IMAGES" / "SR1").write_bytes(cases["report.dcm"][0])
    (folder / "IMAGES" / "EXTRA").write_bytes(cases["photo.dcm"][0])
    (folder / "DICOMDIR").write_bytes(corpus.dicomdir(*(("IMAGES", name) for name in ("IM1", "IM2", "SR1"))))
    return folder


def test_a_dicomdir_in_a_folder_or_archive_is_passed_over(intake, tmp_path):
    folder = export(tmp_path / "export")
    found = walk(intake, folder)
    assert [one.name for one in found if isinstance(one, Skipped)] == ["export/DICOMDIR"]
    below = ["IMAGES/EXTRA", "IMAGES/IM1", "IMAGES/IM2#frame=1", "IMAGES/IM2#frame=2", "IMAGES/SR1"]
    assert names(found) == [f"export/{name}" for name in below]
    packed = tmp_path / "export.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(folder, "export")
    found = walk(intake, packed)
    assert [one.name for one in found if isinstance(one, Skipped)] == ["export.tgz/export/DICOMDIR"]
    assert sorted(names(found)) == sorted(f"export.tgz/export/{name}" for name in below)


def test_what_a_dicomdir_of_a_folder_names_and_is_not_there_is_a_failure(intake, tmp_path):
    folder = export(tmp_path / "disc" / "export")
    (folder / "IMAGES" / "IM1").unlink()
    found = walk(intake, tmp_path / "disc")
    lost = [one for one in found if isinstance(one, Candidate) and one.name == "disc/export/IMAGES/IM1"]
    assert [(one.refusal.reason, one.read) for one in lost] == [("unreadable", None)]
    assert "copy the whole export again" in lost[0].refusal.message
    below = ["EXTRA", "IM1", "IM2#frame=1", "IM2#frame=2", "SR1"]
    assert sorted(names(found)) == [f"disc/export/IMAGES/{name}" for name in below]
    assert [one.name for one in found if isinstance(one, Skipped)] == ["disc/export/DICOMDIR"]
    resumed(intake, tmp_path / "disc", found)


def test_a_dicomdir_alone_gives_the_files_that_it_names(intake, tmp_path):
    found = walk(intake, export(tmp_path / "export") / "DICOMDIR")
    assert names(found) == [f"export/IMAGES/{name}" for name in ("IM1", "IM2#frame=1", "IM2#frame=2", "SR1")]
    resumed(intake, tmp_path / "export" / "DICOMDIR", found)


def test_a_dicomdir_that_names_archives_is_gone_on_with_inside_of_them(tmp_path):
    folder = export(tmp_path / "export")
    (folder / "IMAGES" / "SET.ZIP").write_bytes(corpus.zipped({"a.png": png(), "b.png": png()}))
    (folder / "IMAGES" / "BAD.ZIP").write_bytes(b"PK no archive")
    below = ("IM2", "SET.ZIP", "BAD.ZIP", "IM1")
    (folder / "DICOMDIR").write_bytes(corpus.dicomdir(*(("IMAGES", name) for name in below), "GONE", "DICOMDIR"))
    intake = Intake(Settings(), None, in_place=False, filters=Filters(exclude=("*IM1", "*b.png")))
    found = walk(intake, folder / "DICOMDIR")
    assert [(type(one).__name__, one.name.removeprefix("export/")) for one in found] == [
        ("Candidate", "IMAGES/IM2#frame=1"),
        ("Candidate", "IMAGES/IM2#frame=2"),
        ("Candidate", "IMAGES/SET.ZIP/a.png"),
        ("LeftOut", "IMAGES/SET.ZIP/b.png"),
        ("Candidate", "IMAGES/BAD.ZIP"),
        ("LeftOut", "IMAGES/IM1"),
        ("Candidate", "GONE"),
        ("Skipped", "DICOMDIR"),
    ]
    assert [one.position.taken for one in found] == list(range(1, 9))
    resumed(intake, folder / "DICOMDIR", found)


def test_a_dicomdir_leads_nowhere_else(intake, tmp_path):
    folder = tmp_path / "export"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(png())
    (folder / "way").symlink_to(tmp_path)
    (folder / "lower").write_bytes(corpus.dicoms()["photo.dcm"][0])
    outside = (("..", "secret.png"), ("way", "secret.png"), ("deep", "..", "..", "secret.png"), ("../secret.png",))
    absolute = str(tmp_path / "secret.png")
    (folder / "DICOMDIR").write_bytes(corpus.dicomdir(*outside, absolute, "GONE", "LOWER"))
    *refused, gone, lower = walk(intake, folder / "DICOMDIR")
    assert [one.refusal.reason for one in refused] == ["dicomdir_path"] * 5
    assert all(one.read is None for one in refused)
    assert (gone.name, gone.refusal.reason) == ("export/GONE", "unreadable")
    assert (lower.name, lower.refusal) == ("export/LOWER", None)


def test_a_dicomdir_that_is_empty_or_damaged_is_answered_for(intake, tmp_path):
    path = tmp_path / "DICOMDIR"
    path.write_bytes(corpus.dicomdir())
    (one,) = walk(intake, path)
    assert one.refusal.reason == "no_pixel_data"
    path.write_bytes(corpus.dicomdir(("A",))[:-3])
    assert [one.refusal.reason for one in walk(intake, path)] in (["corrupt"], ["unreadable"], ["no_pixel_data"])


def test_the_same_uid_with_another_content_is_another_image(intake, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(dicom(corpus.DRAWN, identity=5))
    (folder / "b.dcm").write_bytes(dicom(corpus.OTHER, identity=5))
    first, second = walk(intake, folder)
    assert first.read() != second.read()


NAMES = st.text(alphabet="a./Bc1", max_size=9).filter(lambda name: name.rpartition("/")[2] not in {"", "."})


@hypothesis.given(NAMES)
def test_the_end_of_a_name_is_what_pathlib_takes_for_it(name):
    assert suffix_of(name) == PurePosixPath(name).suffix.lower()
