"""Image files: the right pixels of every odd one, one clear reason for every bad one."""

from __future__ import annotations

import io
import threading
import warnings

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from dermbatch.errors import BadInput
from dermbatch.images.formats.origin import XMP_SYNTHETIC
from dermbatch.images.imagefile import SUPPORTED, read_image, sniff
from dermbatch.images.quiet import quiet
from tests import corpus
from tests.drawn import read_or_refuse

LIMIT = 120_000_000
RASTERS = corpus.rasters()
IMAGE = corpus.DRAWN.image
GREY = np.asarray(Image.fromarray(IMAGE).convert("L"))


def difference(data: bytes, expected: np.ndarray) -> float:
    """Mean absolute difference of what is read to what is expected."""
    pixels = read_image(data, max_pixels=LIMIT).pixels
    assert pixels.shape == expected.shape
    return float(np.abs(pixels.astype(int) - expected).mean())


@pytest.mark.parametrize("name", RASTERS)
def test_every_case_has_its_outcome(name):
    data, outcome = RASTERS[name]
    if outcome == "ok":
        image = read_image(data, max_pixels=LIMIT)
        assert image.pixels.shape == IMAGE.shape
        assert image.pixels.dtype == np.uint8
        assert image.pixels.flags.c_contiguous
        assert image.media_type in SUPPORTED
        assert image.pixel_spacing_mm is None
    else:
        with pytest.raises(BadInput) as caught:
            read_image(data, max_pixels=LIMIT)
        assert caught.value.reason == outcome
        assert len(str(caught.value)) > 15


@pytest.mark.parametrize("name", ["plain.png", "plain.tif", "plain.bmp", "plain.webp", "deep.png", "deep.tif"])
def test_lossless_files_come_back_to_the_bit(name):
    assert difference(RASTERS[name][0], IMAGE) == 0


@pytest.mark.parametrize("name", ["plain.jpg", "turned.jpg", "progressive.jpg", "cmyk.jpg"])
def test_lossy_files_come_back_upright_and_in_their_colours(name):
    assert difference(RASTERS[name][0], IMAGE) < 8


@pytest.mark.parametrize("name", ["grey.png", "grey.jpg", "deep grey.png"])
def test_grey_files_become_rgb(name):
    assert difference(RASTERS[name][0], np.dstack([GREY] * 3)) < 2


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("plain.jpg", ()),
        ("plain.png", ()),
        ("turned.jpg", ("exif_rotated",)),
        ("grey.jpg", ("from_grey",)),
        ("deep.png", ("from_16_bit",)),
        ("deep.tif", ("from_16_bit",)),
        ("deep grey.png", ("from_16_bit", "from_grey")),
        ("cmyk.jpg", ("from_cmyk",)),
        ("rgba.png", ("from_rgba",)),
        ("palette.png", ("from_palette",)),
    ],
)
def test_notes_say_what_was_converted(name, notes):
    assert read_image(RASTERS[name][0], max_pixels=LIMIT).notes == notes


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_what_says_that_it_is_made_up_is_noted(format):
    from PIL.PngImagePlugin import PngInfo

    info, file = PngInfo(), io.BytesIO()
    info.add_itxt("XML:com.adobe.xmp", XMP_SYNTHETIC)
    options = {"pnginfo": info} if format == "PNG" else {"xmp": XMP_SYNTHETIC.encode()}
    Image.fromarray(IMAGE).save(file, format=format, **options)
    assert read_image(file.getvalue(), max_pixels=LIMIT).notes == ("synthetic",)


def test_what_is_see_through_becomes_white():
    pixels = read_image(RASTERS["rgba.png"][0], max_pixels=LIMIT).pixels
    half = IMAGE.shape[1] // 2
    assert (pixels[:, :half] == IMAGE[:, :half]).all()
    assert (pixels[:, half:] == 255).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(orientation, format):
    """Pillow's own `exif_transpose` is the reference."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"TIFF": {}, "WEBP": {"lossless": True}}.get(format, {})
    data = corpus.picture(format, exif=exif if format == "TIFF" else exif.tobytes(), **options)
    with Image.open(io.BytesIO(data)) as raw:
        upright = np.asarray(ImageOps.exif_transpose(raw).convert("RGB"))
    image = read_image(data, max_pixels=LIMIT)
    assert image.notes == (("exif_rotated",) if orientation > 1 else ())
    assert (image.pixels == upright).all()


def test_deep_samples_are_rounded_not_cut():
    ramp = np.repeat(np.arange(0, 65536, 64, dtype=np.uint16)[None, :, None], 16, axis=0).repeat(3, axis=2)
    pixels = read_image(cv2.imencode(".png", ramp)[1].tobytes(), max_pixels=LIMIT).pixels
    assert (pixels == np.round(ramp / 257)).all()


def test_other_colour_spaces_are_converted_and_srgb_is_not():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = read_image(corpus.picture("PNG", icc_profile=srgb), max_pixels=LIMIT)
    assert same.notes == ()
    assert (same.pixels == IMAGE).all()
    # The same profile under another name, its red and blue primaries exchanged: red must come out as blue.
    swapped = srgb.replace(b"rXYZ", b"tXYZ").replace(b"bXYZ", b"rXYZ").replace(b"tXYZ", b"bXYZ")
    swapped = swapped.replace(b"sRGB", b"other").replace(b"s\0R\0G\0B", b"o\0t\0h\0e")
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 255
    image = read_image(corpus.picture("PNG", red, icc_profile=swapped[: len(srgb)]), max_pixels=LIMIT)
    assert image.notes == ("from_icc",)
    assert image.pixels[0, 0, 2] > 200 > 60 > image.pixels[0, 0, 0]


def test_a_broken_profile_is_ignored():
    image = read_image(corpus.picture("PNG", icc_profile=b"no profile" * 20), max_pixels=LIMIT)
    assert image.notes == ()
    assert (image.pixels == IMAGE).all()


def test_bytes_after_the_end_of_a_jpeg_are_allowed():
    data = corpus.picture("JPEG") + b"some camera's appendix" * 50
    assert difference(data, IMAGE) < 8


def test_another_picture_behind_a_jpeg_is_left_out_with_a_note():
    one, other = (np.full((48, 64, 3), grey, np.uint8) for grey in (90, 200))
    first, second = (cv2.imencode(".jpg", picture)[1].tobytes() for picture in (one, other))
    with io.BytesIO() as file:
        Image.fromarray(one).save(file, "MPO", save_all=True, append_images=[Image.fromarray(other)])
        several = file.getvalue()
    for body in (first + second, first + bytes(7) + second, several):
        found = read_image(body, max_pixels=10**6)
        assert found.notes == ("other_pictures_left_out",)
        assert abs(int(found.pixels[24, 32, 0]) - 90) < 3
    thumbnail = b"\xff\xe1" + (len(second) + 8).to_bytes(2, "big") + b"Exif\0\0" + second
    for body in (first, first + b"no picture", first[:2] + thumbnail + first[2:]):
        assert read_image(body, max_pixels=10**6).notes == ()


def test_a_smaller_copy_is_no_second_page():
    """A thumbnail in a TIFF is marked as reduced resolution (NewSubfileType bit 0)."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2()
    tags[254] = 1
    thumbnail = Image.fromarray(IMAGE).resize((40, 30))
    thumbnail.encoderinfo = {"tiffinfo": tags}
    data = corpus.picture("TIFF", save_all=True, append_images=[thumbnail])
    assert difference(data, IMAGE) == 0


@pytest.mark.parametrize("cut", [3, 20, 200, 0.3, 0.7, 0.98])
@pytest.mark.parametrize("name", ["plain.jpg", "progressive.jpg", "plain.png", "plain.bmp", "plain.webp"])
def test_a_cut_file_is_never_half_a_picture(name, cut):
    data = RASTERS[name][0]
    part = data[: cut if isinstance(cut, int) else int(len(data) * cut)]
    with pytest.raises(BadInput) as caught:
        read_image(part, max_pixels=LIMIT)
    assert caught.value.reason in ("truncated", "not_an_image")
    assert caught.value.reason == "truncated" or len(part) < 30


def test_the_limit_is_on_pixels_and_checked_before_decoding():
    height, width = IMAGE.shape[:2]
    data = corpus.picture("JPEG")
    assert read_image(data, max_pixels=height * width).pixels.shape == IMAGE.shape
    with pytest.raises(BadInput, match="more than"):
        read_image(data, max_pixels=height * width - 1)


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"", None),
        (b"BMW is a car maker", None),
        (b"RIFF\x10\0\0\0WAVEfmt ", None),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
        (bytes(128) + b"DICM", "application/dicom"),
        (b"II*\0" + bytes(124) + b"DICM", "application/dicom"),
        (b"\x08\0\x05\0CS\x0a\0ISO_IR 192" + bytes(20), "application/dicom"),
        (b"\x08\0\x05\0\x0a\0\0\0ISO_IR 100" + bytes(20), "application/dicom"),
        (bytes(256), None),
        (b"PK\x03\x04" + bytes(40), "application/zip"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "image/heic"),
        (b"<html>", None),
    ],
)
def test_sniff_goes_by_content(head, media_type):
    assert sniff(head) == media_type


@given(data=st.binary(min_size=1, max_size=400))
@settings(max_examples=150)
def test_noise_is_refused_without_another_error(data):
    with pytest.raises(BadInput):
        read_image(data, max_pixels=LIMIT)


@pytest.mark.parametrize("name", ["plain.jpg", "plain.png", "plain.tif", "plain.bmp", "plain.webp", "deep.tif"])
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6), keep=st.floats(0, 1)
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_read_or_refused(name, changes, keep):
    data = bytearray(RASTERS[name][0])
    for where, value in changes:
        # Headers are a small part of a file and the more interesting one.
        data[int(where**3 * (len(data) - 1))] = value
    if keep < 0.5:
        del data[int(keep * 2 * len(data)) :]
    image = read_or_refuse(bytes(data))
    assert image is None or (image.pixels.ndim == 3 and image.pixels.dtype == np.uint8)


def test_quiet_is_safe_among_threads():
    """Threads that leave out of turn must not leave their filters behind."""
    before = list(warnings.filters)
    first_in, second_in = threading.Event(), threading.Event()

    def first() -> None:
        with quiet():
            first_in.set()
            second_in.wait(5)

    thread = threading.Thread(target=first)
    thread.start()
    first_in.wait(5)
    with quiet():
        second_in.set()
        thread.join()
        warnings.warn("still not heard", UserWarning, stacklevel=1)
    assert list(warnings.filters) == before
    with pytest.raises(UserWarning):
        warnings.warn("heard again", UserWarning, stacklevel=1)
