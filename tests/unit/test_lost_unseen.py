"""Nothing of an input is lost unseen: taken, or a failure by name, or left out alike everywhere and counted."""

import bz2
import gzip
import io
import lzma
import zipfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from standins import Store

from dermbatch.archives.compressed import opened, unpacked_head
from dermbatch.phantoms.samples import dicom
from dermbatch.records.marks import is_marked, is_result_path, marked_jpeg, marked_png
from dermbatch.settings import Settings
from dermbatch.store import ObjectInfo
from orchestrator.planning.intake.candidates import Candidate, Skipped
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.privacy.deidentifier import unnamed
from tests import corpus

pytestmark = pytest.mark.usefixtures("shared_nursery")

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the cases in {CASES}")
PNG = cv2.imencode(".png", np.zeros((20, 20, 3), np.uint8))[1].tobytes()
JPEG = cv2.imencode(".jpg", np.zeros((20, 20, 3), np.uint8))[1].tobytes()
DICOM = dicom(corpus.DRAWN, identity=1)


class Bucket(Store):
    """A store of which intake reads one bucket."""

    def under(self, pseudonym):
        return self

    def list(self, bucket, prefix, *, start_after=""):
        for place, key in sorted(self.objects):
            if place == bucket and key.startswith(prefix) and key > start_after:
                yield ObjectInfo(key, len(self.objects[place, key]), "e", datetime(2026, 3, 1, tzinfo=UTC))

    def head(self, bucket, key, length):
        self.requests.append(("head", key))
        return self.objects[bucket, key][:length]

    def download(self, bucket, key, path):
        path.write_bytes(self.objects[bucket, key])


def in_folder(files, tmp_path):
    for name, body in files.items():
        path = tmp_path / "in" / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return list(Intake(Settings(), None, in_place=False).walk([str(tmp_path / "in")]))


def in_zip(files, tmp_path):
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return list(Intake(Settings(), None, in_place=False).walk([str(path)]))


def in_tar(files, tmp_path):
    path = tmp_path / "in.tar.gz"
    path.write_bytes(corpus.tarred({name: body for name, body in files.items() if name[-1] != "/"}, "w:gz"))
    return list(Intake(Settings(), None, in_place=False).walk([str(path)]))


def in_bucket(files, tmp_path):
    store = Bucket()
    for name, body in files.items():
        store.objects["b", f"in/{name}"] = body
    return list(Intake(Settings(), store, in_place=True).walk(["s3://b/in"]))


WAYS = [in_folder, in_zip, in_tar, in_bucket]
everywhere = pytest.mark.parametrize("way", WAYS)


def taken(found):
    return sorted(one.name for one in found if isinstance(one, Candidate) and one.refusal is None)


def refusals(found):
    return {one.name: one.refusal for one in found if isinstance(one, Candidate) and one.refusal is not None}


def skipped(found):
    return Counter(one.why for one in found if isinstance(one, Skipped))


SIDECARS = {
    "._a.jpg": b"\x00\x05\x16\x07" + bytes(60),
    "__MACOSX/._a.jpg": JPEG,
    "@eaDir/a.jpg/SYNOFILE_THUMB_M.jpg": JPEG,
    ".thumbnails/a.jpg": JPEG,
    "study/@eaDir/a.jpg@SynoEAStream": JPEG,
    "$RECYCLE.BIN/b.jpg": JPEG,
    "#recycle/c.jpg": JPEG,
    "Thumbs.db": JPEG,
    "study/desktop.ini": b"[x]",
    "study/.hidden.png": PNG,
}


@everywhere
def test_sidecars_are_left_out_alike_and_counted(way, tmp_path):
    found = way({"a.jpg": JPEG, "study/b.png": PNG, **SIDECARS}, tmp_path)
    assert len(taken(found)) == 2
    assert refusals(found) == {}
    # A folder that is not walked into counts as one, on a disk; elsewhere each file in it is seen.
    assert skipped(found) == {"sidecar": len(SIDECARS)}


def test_objects_that_stand_for_folders_are_left_out(tmp_path):
    found = in_bucket(
        {"a.jpg": JPEG, "dir.jpg/": b"", "dir.jpg/b.jpg": JPEG, "x_$folder$": b"", "y/": b""}, tmp_path
    )
    assert taken(found) == ["s3://b/in/a.jpg", "s3://b/in/dir.jpg/b.jpg"]
    assert skipped(found) == {"sidecar": 3}


BY_BYTES = {
    "a.heic": b"\0\0\0\x18ftypheic" + bytes(40),
    "a.avif": b"\0\0\0\x18ftypavif" + bytes(40),
    "a.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
    "a.gif": b"GIF89a" + bytes(40),
    "a.jxl": b"\xff\x0a" + bytes(40),
}
BY_NAME = {
    "b.psd": b"8BPS" + bytes(40),
    "b.cr3": b"\0\0\0\x18ftypcrx " + bytes(40),
    "b.raf": b"FUJIFILMCCD-RAW" + bytes(40),
    "b.jls": bytes(40),
    "b.ppm": b"P6 1 1 255\n" + bytes(40),
    "export.7z": b"7z\xbc\xaf\x27\x1c" + bytes(40),
    "export.rar": b"Rar!\x1a\x07\x01" + bytes(40),
    "export.cab": b"MSCF" + bytes(40),
    "export.lzh": bytes(40),
    "export.iso": bytes(40),
    "export.tar.zst": b"\x28\xb5\x2f\xfd" + bytes(40),
    "a.dcm.zst": b"\x28\xb5\x2f\xfd" + bytes(40),
    "a.dcm.Z": b"\x1f\x9d" + bytes(40),
    "b.qoi": b"qoif" + bytes(40),
    "b.sgi": bytes(40),
    "b.dds": b"DDS |" + bytes(40),
    "b.bpg": b"BPG\xfb" + bytes(40),
    "b.jng": b"\x8bJNG\r\n\x1a\n" + bytes(40),
    "b.hdr": b"#?RADIANCE\n" + bytes(40),
    "b.kra": b"PK\x03\x04" + bytes(40),
    "b.jp2": b"\0\0\0\x0cjP  \r\r\n\x87\r\n" + bytes(40),
    "export.z01": b"PK\x03\x04" + bytes(40),
    "renamed": b"7z\xbc\xaf\x27\x1c" + bytes(40),
    "renamed.bin": b"Rar!\x1a\x07\x00" + bytes(40),
}


@everywhere
def test_known_formats_that_are_not_taken_are_failures_by_name(way, tmp_path):
    files = {**BY_BYTES, **BY_NAME, "notes.csv.zst": b"\x28\xb5\x2f\xfd" + bytes(40), "clip.mp4": bytes(40)}
    found = way(files, tmp_path)
    assert {one.name.rpartition("/")[2] for one in found if isinstance(one, Candidate)} == {*BY_BYTES, *BY_NAME}
    refused = refusals(found)
    assert {name.rpartition("/")[2] for name in refused} >= set(BY_NAME)
    for refusal in refused.values():
        assert refusal.reason == "unsupported_format"
        assert "convert it" in refusal.message or "unpack it" in refusal.message
        assert unnamed(refusal) == refusal  # also under a profile: it quotes no file's name
    assert skipped(found) == {"no_image": 2}


@pytest.mark.parametrize("name", ["export", "export.dat", "export.cbz", "export.bak", "a.jpg.gz.gz"])
@pytest.mark.parametrize("way", [in_folder, in_bucket])
def test_archives_are_known_by_their_bytes_where_their_names_say_nothing(way, name, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("1.jpg", JPEG)
    body = gzip.compress(gzip.compress(JPEG)) if name.endswith("gz") else buffer.getvalue()
    found = way({name: body, "letter.docx": buffer.getvalue()}, tmp_path)
    (one,) = (one for one in found if isinstance(one, Candidate))
    assert one.refusal is None
    assert one.read() == JPEG
    assert skipped(found) == {"no_image": 1}


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACKERS)
@everywhere
def test_compressed_files_and_tars_are_taken(way, tmp_path, suffix):
    pack = PACKERS[suffix]
    tar = corpus.tarred({"t/1.png": PNG, "t/notes.txt": b"words"})
    files = {
        f"a.dcm{suffix}": pack(DICOM),
        f"b.png{suffix}": pack(PNG),
        f"1.2.840.99{suffix}": pack(DICOM),
        f"noname{suffix}": pack(JPEG),
        f"t.tar{suffix}": pack(tar),
        f"untold{suffix}": pack(tar),
        f"words.txt{suffix}": pack(b"words"),
    }
    found = way(files, tmp_path)
    bodies = {one.name: one.read() for one in found if isinstance(one, Candidate)}
    ends = {name.split("in.zip/")[-1].split("in.tar.gz/")[-1].split("in/")[-1] for name in bodies}
    assert ends == {
        f"a.dcm{suffix}/a.dcm",
        f"b.png{suffix}/b.png",
        f"1.2.840.99{suffix}/1.2.840.99",
        f"noname{suffix}/noname",
        f"t.tar{suffix}/t/1.png",
        f"untold{suffix}/t/1.png",
    }
    assert sorted(bodies.values()) == sorted([DICOM, PNG, DICOM, JPEG, PNG, PNG])
    assert skipped(found) == {"no_image": 3}


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_damaged_compressed_picture_is_a_failure(tmp_path, suffix):
    body = PACKERS[suffix](np.random.default_rng(0).bytes(5000) + DICOM)
    found = in_folder({f"cut.dcm{suffix}": body[: len(body) // 2], f"flip.png{suffix}": body[:-6]}, tmp_path)
    assert {refusal.reason for refusal in refusals(found).values()} == {"zip_corrupt"}
    assert len(refusals(found)) == 2


def test_a_file_that_only_its_name_says_is_compressed_is_taken_for_what_it_is(tmp_path):
    found = in_folder({"a.dcm.gz": DICOM, "b.png.gz": b"no picture", "c.txt.gz": b"words"}, tmp_path)
    assert taken(found) == ["in/a.dcm.gz"]
    assert skipped(found) + Counter(refused=len(refusals(found))) == {"no_image": 2}


def test_compressed_bombs_are_refused():
    settings = Settings()
    for pack in PACKERS.values():
        body = pack(bytes(8 << 20))
        assert len(unpacked_head(body, 512)) <= 512
        small = settings.archive.model_copy(update={"max_ratio": 10.0})
        from dermbatch.archives.archive import members

        (member,) = members(body, small, name=f"a.dcm{'.gz'}")
        with pytest.raises(Exception, match="bomb"):
            member.read()


def test_an_xz_of_several_streams_is_read_whole():
    body = lzma.compress(b"one") + bytes(8) + lzma.compress(b"two")
    assert opened(io.BytesIO(body)).read() == b"onetwo"


def results(tmp_path):
    """What Dermbatch writes: an old version's files where they lie, and today's under any name."""
    digest, key = "ab" * 32, "cd" * 16
    return {
        f"images/{digest}/segment/{key}/mask.png": PNG,
        f"images/{digest}/purify/{key}/purified.png": marked_png(PNG),
        f"images/{digest}/preview/{key}/preview.jpg": JPEG,
        "batches/b/dicom/000000/0-enhanced.dcm": DICOM,
        "batches/b/report.html": b"<p>",
        "batches/b/results/000000/0.json": b"{}",
        "copies/a.jpg/mask.png": marked_png(PNG),
        "copies/a.jpg/preview.jpg": marked_jpeg(JPEG),
    }


@everywhere
def test_its_own_results_are_left_out_by_name_on_every_route(way, tmp_path):
    files = {"a.jpg": JPEG, "images/b.png": PNG, "batches/c.png": PNG, **results(tmp_path)}
    found = way(files, tmp_path)
    assert len(taken(found)) == 3
    assert skipped(found) == {"own_result": len(results(tmp_path))}


def test_an_own_result_that_was_named_is_a_failure(tmp_path):
    (tmp_path / "renamed.png").write_bytes(marked_png(PNG))
    (one,) = Intake(Settings(), None, in_place=False).walk([str(tmp_path / "renamed.png")])
    assert one.refusal.reason == "own_result"


def test_marks_harm_no_picture():
    assert (cv2.imdecode(np.frombuffer(marked_png(PNG), np.uint8), -1) == 0).all()
    assert cv2.imdecode(np.frombuffer(marked_jpeg(JPEG), np.uint8), -1).shape == (20, 20, 3)
    assert [is_marked(body) for body in (PNG, JPEG, DICOM, b"Dermbatch", b"")] == [False] * 5
    assert not is_result_path("images/photo.png")
    assert not is_result_path("batches/2024/1.png")


DIRECTORY = {
    "upper": (("IMAGES", "IM1"), "IMAGES/IM1"),
    "lower": (("IMAGES", "IM1"), "images/im1"),
    "suffix": (("IMAGES", "IM1"), "IMAGES/IM1.dcm"),
    "upper suffix": (("IMAGES", "IM1"), "Images/im1.DCM"),
    "version": (("IMAGES", "IM1"), "IMAGES/IM1;1"),
    "version with dot": (("IMAGES", "IM1"), "IMAGES/IM1.;1"),
    "suffix and version": (("IMAGES", "IM1.DCM"), "images/im1.dcm;1"),
    "one path": (("IMAGES/IM1",), "IMAGES/IM1"),
    "backslashes": ("IMAGES\\IM1", "IMAGES/IM1"),
    "leading slash": (("/IMAGES/IM1",), "IMAGES/IM1"),
    "dots": (("./IMAGES/IM1",), "IMAGES/IM1.dcm"),
    "directory version": (("IMAGES.X", "IM1"), "images.x/im1"),
    "suffix asked": (("IMAGES", "IM1.DCM"), "IMAGES/IM1"),
}


@pytest.mark.parametrize("kind", DIRECTORY)
def test_the_files_of_a_dicomdir_are_found_whatever_they_are_called_by_now(tmp_path, kind):
    file_id, place = DIRECTORY[kind]
    path = tmp_path / "disc" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(DICOM)
    (tmp_path / "disc" / "DICOMDIR").write_bytes(corpus.dicomdir(file_id))
    (one,) = Intake(Settings(), None, in_place=False).walk([str(tmp_path / "disc" / "DICOMDIR")])
    assert one.refusal is None
    assert one.read() == DICOM


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("prefix", ["disc/", ""])
@pytest.mark.parametrize("kind", DIRECTORY)
def test_a_dicomdir_in_a_bucket_is_followed_alike(kind, prefix, in_place):
    file_id, place = DIRECTORY[kind]
    store = Bucket()
    store.objects["b", prefix + place] = DICOM
    store.objects["b", f"{prefix}DICOMDIR"] = corpus.dicomdir(file_id)
    (one,) = Intake(Settings(), store, in_place=in_place).walk([f"s3://b/{prefix}DICOMDIR"])
    assert one.refusal is None
    assert one.name == f"s3://b/{prefix}{place}"
    assert one.uri == one.name if in_place else one.read() == DICOM


def test_what_a_dicomdir_in_a_bucket_names_and_is_not_there_is_a_failure():
    store = Bucket()
    store.objects["b", "disc/IMAGES/IM1"] = store.objects["b", "other"] = DICOM
    outside = ("..", "other")
    store.objects["b", "disc/DICOMDIR"] = corpus.dicomdir(("IMAGES", "IM2"), outside, ("/other",), "IMAGES")
    found = list(Intake(Settings(), store, in_place=True).walk(["s3://b/disc/DICOMDIR"]))
    reasons = [one.refusal.reason for one in found]
    assert reasons == ["unreadable", "dicomdir_path", "dicomdir_path", "unreadable"]
    assert all(one.name.startswith("s3://b/disc/") for one in found)


def test_of_several_names_that_fit_the_exact_one_is_taken(tmp_path):
    disc = tmp_path / "disc"
    disc.mkdir()
    for name in ("im1", "IM1.dcm", "IM1;1"):
        (disc / name).write_bytes(PNG)
    (disc / "IM1").write_bytes(DICOM)
    (disc / "DICOMDIR").write_bytes(corpus.dicomdir(("IM1",)))
    (one,) = Intake(Settings(), None, in_place=False).walk([str(disc / "DICOMDIR")])
    assert one.read() == DICOM


@needs_cases
@pytest.mark.parametrize(
    ("case", "images"),
    [
        ("300-dicomdir-files-have-dcm-suffix/DICOMDIR", 2),
        ("302-dicomdir-iso-version/DICOMDIR", 2),
        ("303-dicomdir-one-string/DICOMDIR", 1),
        ("310-zip-macos/export.zip", 1),
        ("311-zip-name-latin1/z.zip", 1),
        ("323-tar-bz2", 1),
        ("323-tar-bz2/t.tar.bz2", 1),
        ("325-gz-single", 1),
        ("325-gz-single/a.dcm.gz", 1),
    ],
)
def test_the_cases_are_taken(case, images):
    found = list(Intake(Settings(), None, in_place=False).walk([str(CASES / case)]))
    assert refusals(found) == {}
    assert len(taken(found)) == images
    assert "\\x" not in "".join(one.name for one in found)


@needs_cases
def test_the_case_of_archives_that_are_not_opened(tmp_path):
    found = list(Intake(Settings(), None, in_place=False).walk([str(CASES / "326-7z-rar")]))
    assert taken(found) == ["326-7z-rar/ok.jpg"]
    assert {name: refusal.reason for name, refusal in refusals(found).items()} == {
        "326-7z-rar/export.7z": "unsupported_format",
        "326-7z-rar/export.rar": "unsupported_format",
    }
