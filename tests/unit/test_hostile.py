"""Files that ask for more than they hold: each ends as what it is, for workers and under a profile."""

import io
import zipfile
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest
from pydantic import SecretStr

from benchmarks import hostile
from dermbatch.archives.archive import members
from dermbatch.bounded.reader import Reader
from dermbatch.errors import BadInput, UsageError
from dermbatch.images.imagefile import MODULES, read_image
from dermbatch.records.marks import is_marked
from dermbatch.settings import ArchiveSettings, ReadingSettings
from orchestrator.planning.documents import composed, constructed
from orchestrator.planning.intake.frames import count_frames
from orchestrator.planning.privacy.deidentify import deidentify
from orchestrator.planning.privacy.profile import Profile, load_profile
from orchestrator.planning.privacy.pseudonyms import Pseudonyms
from orchestrator.watching.rules.document import read_document

LIMITS = ReadingSettings(memory=192 << 20).limits
MOST = 120_000_000


@pytest.fixture(scope="module")
def reader():
    reader = Reader(LIMITS, (deidentify.__module__, *MODULES))
    yield reader
    reader.close()


def as_worker(reader, data):
    return reader.run(read_image, data, max_pixels=MOST)


def as_copy(reader, data):
    pseudonyms = Pseudonyms(SecretStr("no secret, but long enough"))
    return reader.run(deidentify, data, Profile(name="a"), pseudonyms, max_pixels=MOST)


WAYS = (as_worker, as_copy)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("made", "reason", "says"),
    [
        (lambda: hostile.progressive(201, 64), "too_expensive", "201 scans; at most 200"),
        (lambda: hostile.progressive_in_tiff(201, 64), "too_expensive", "201 scans; at most 100"),
        (lambda: hostile.directories(1_200), "multi_frame", "1,000 or more pages"),
        (lambda: hostile.few_tiles(200), "corrupt", "1 of its 16 tiles"),
        (lambda: hostile.huge_tile(60_000), "too_expensive", "192 MiB of memory that a picture of 0.0 megapixels"),
        (lambda: hostile.decoy_jp2(40_000), "corrupt", "JPEG 2000"),
    ],
)
def test_pictures_that_ask_for_more_than_they_hold(reader, way, made, reason, says):
    with pytest.raises(BadInput, match=says) as caught:
        way(reader, made())
    assert caught.value.reason == reason


@cache
def hidden():
    return hostile.hidden_deflate(400 << 20)


@pytest.mark.parametrize("way", WAYS)
def test_a_data_set_that_hides_that_it_is_deflated_fills_no_memory(reader, way):
    with pytest.raises(BadInput, match="MiB of memory that a file that states no picture size") as caught:
        way(reader, hidden())
    assert caught.value.reason == "too_expensive"


def test_nothing_of_it_is_inflated_where_frames_are_counted(monkeypatch):
    """In the process itself, where nothing bounds it."""
    data = hostile.hidden_deflate(100 << 20)
    monkeypatch.setattr("zlib.decompressobj", None)
    monkeypatch.setattr("zlib.decompress", None)
    assert count_frames(lambda length: data[:length], len(data)) == 1
    assert not is_marked(data[: 32 << 10])


def test_a_data_set_that_is_deflated_and_small_is_right_however_its_syntax_is_hidden(reader):
    image = as_worker(reader, hostile.hidden_deflate(64 * 64 * 3 & ~0xFFF))
    assert image.pixels.shape == (64, 64, 3)


def test_a_jpeg_2000_header_that_another_one_hides_is_refused(reader):
    with pytest.raises(BadInput) as caught:
        as_worker(reader, hostile.decoy_dicom(40_000))
    assert caught.value.reason in {"corrupt", "too_expensive"}


@pytest.mark.parametrize("way", WAYS)
def test_large_pictures_get_what_they_need(reader, way):
    """Under limits that are scaled to pictures a hundredth of the size of those of ``benchmarks.bounds``."""
    small = Reader(replace(LIMITS, seconds_per_megapixel=10), [], reader._nursery)
    shown = hostile.skin(400, 600)
    for made in (hostile.jpeg2000(400, 600), hostile.deep_png(400, 600), hostile.progressive(40, 600)):
        got = way(small, made)
        pixels = got.pixels if way is as_worker else cv2.imdecode(np.frombuffer(got.data, np.uint8), 1)[..., ::-1]
        assert pixels.shape in {(400, 600, 3), (600, 600, 3)}
        if pixels.shape == shown.shape and made[:2] == b"\xff\x4f":
            assert np.array_equal(pixels, shown)


def test_members_of_a_zip_that_share_their_bytes_are_a_bomb():
    with pytest.raises(BadInput, match="share their bytes") as caught:
        next(members(hostile.overlapping_zip(50, 70_000), ArchiveSettings()))
    assert caught.value.reason == "zip_bomb"  # once, and not for each of them


def test_members_side_by_side_are_none():
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for number in range(20):
            archive.writestr(f"{number}.jpg", bytes([number]) * number)
    found = [one.read() for one in members(made.getvalue(), ArchiveSettings())]
    assert found == [bytes([number]) * number for number in range(20)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (hostile.merge_bomb(7), "line 9.*aliases expand to more than"),
        (hostile.alias_bomb(9), "aliases expand to more than"),
        (b"[" * 1_000, "not YAML"),
        (b"x: " + b"1:" * 10_000 + b"1", "line 1.*a number of more than 100 characters"),
        (b"x: " + b"1:" * 10_000 + b"1.5", "line 1.*a number of more than 100 characters"),
        (b"x: 0x" + b"f" * 1_000, "line 1.*a number of more than 100 characters"),
        (b"a:\n " + b"- " * 2_000 + b"x", "not YAML"),
    ],
)
def test_yaml_that_multiplies_is_refused(tmp_path, text, says):
    path = tmp_path / "rules.yaml"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=says):
        read_document(path)
    with pytest.raises(UsageError, match="not YAML"):
        load_profile(path)


def test_yaml_with_a_few_aliases_is_read():
    assert constructed(composed(b"a: &a {x: 1}\nb:\n  <<: *a\n  y: [*a, *a]")) == {
        "a": {"x": 1},
        "b": {"x": 1, "y": [{"x": 1}, {"x": 1}]},
    }
