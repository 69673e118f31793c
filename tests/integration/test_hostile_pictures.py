"""Pictures that ask for more than they hold, read by processes under limits: each ends as what it is."""

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest
from pydantic import SecretStr

from benchmarks import hostile
from dermbatch.bounded.reader import Reader
from dermbatch.errors import BadInput
from dermbatch.images.imagefile import MODULES, read_image
from dermbatch.settings import ReadingSettings
from orchestrator.planning.privacy.deidentify import deidentify
from orchestrator.planning.privacy.profile import Profile
from orchestrator.planning.privacy.pseudonyms import Pseudonyms

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
