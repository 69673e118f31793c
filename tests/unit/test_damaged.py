"""Pictures of which a part is damaged or missing, which decoders show anyway; and what they show wrongly."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.uid import JPEGBaseline8Bit, JPEGLossless

from dermbatch.errors import BadInput
from tests import corpus
from tests.drawn import (
    GREY,
    HEIGHT,
    IMAGE,
    OTHER,
    PLANES,
    WIDTH,
    apart,
    both_are,
    cleaned,
    coded,
    image,
    items,
    read,
    refusal,
    tiff,
)

BIG = np.array(Image.fromarray(IMAGE).resize((640, 480), Image.Resampling.BICUBIC))
DEEP = BIG.astype(np.uint16) * 257


@cache
def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(BIG).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def holed(data: bytes, filled: bytes = b"\0", size: int = 600) -> bytes:
    """With a hole in its middle, as an interrupted copy or a bad sector leaves one."""
    at = len(data) // 2
    return data[:at] + filled * size + data[at + size :]


DAMAGE = {
    "zeros": holed,
    "ones": lambda one: holed(one, b"\xff"),
    "the half": lambda one: one[: len(one) // 2] + b"\xff\xd9",
    "less": lambda one: one[: len(one) // 2] + one[len(one) // 2 + 2000 :],
    "twice": lambda one: one[: len(one) // 2] + one[len(one) // 2 - 2000 :],
    "more behind": lambda one: one[:-2] + one[-500:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 8}], ids=["plain", "scans", "restarts"]
)
def test_damaged_jpeg_pictures_are_no_wrong_ones(damage, options):
    data = damage(jpeg(**options))
    assert refusal(data).reason == "corrupt"
    compressed = image(items(data), JPEGBaseline8Bit, Rows=480, Columns=640)
    refused = refusal(compressed)
    assert (refused.reason, "Pixel Data" in str(refused)) == ("corrupt", True)


@pytest.mark.parametrize("side", [5, 7])
@pytest.mark.parametrize("change", [-100, 100])
def test_jpeg_pictures_of_another_size_than_their_header_says_are_refused(side, change):
    data = jpeg()
    at = data.find(b"\xff\xc0") + side
    declared = int.from_bytes(data[at : at + 2], "big") + change
    assert refusal(data[:at] + declared.to_bytes(2, "big") + data[at + 2 :]).reason == "corrupt"


@pytest.mark.parametrize(
    "behind", [bytes(100), b"\xff" * 100, b"made by nobody, in no year", b"\r\n" * 20 + bytes(9)]
)
def test_what_fills_up_coded_data_is_no_damage(behind):
    data = jpeg()
    found = read(data[:-2] + behind + b"\xff\xd9")
    assert np.array_equal(found.pixels, read(data).pixels)


@pytest.mark.parametrize("damage", ["zeros", "the half"])
def test_damaged_lossless_jpeg_pictures_are_no_wrong_ones(damage):
    data = DAMAGE[damage](imagecodecs.jpeg8_encode(IMAGE, lossless=True))
    assert refusal(data).reason == "corrupt"
    assert "Pixel Data" in str(refusal(coded(data, JPEGLossless)))


def with_tag(data: bytes, code: int, values: dict[int, int]) -> bytes:
    """With other values of a tag."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages.first.tags[code]
        kind, all_values = {3: "H", 4: "I"}[tag.dtype], list(np.atleast_1d(tag.value))
        at = tag.valueoffset
    for place, value in values.items():
        all_values[place] = value
    body = struct.pack(f"<{len(all_values)}{kind}", *all_values)
    return data[:at] + body + data[at + len(body) :]


@cache
def whole(deep: bool, compression: str | None) -> bytes:
    """A file in strips that is read as it should be."""
    data = tiff(DEEP if deep else BIG, compression=compression, rowsperstrip=48)
    assert apart(read(data), BIG) < 1
    return data


@pytest.mark.parametrize("pixels", [BIG, DEEP], ids=["8", "16"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd"])
@pytest.mark.parametrize(
    ("tag", "value"), [(273, 0), (279, 0), (279, 7), (257, 960)], ids=["nowhere", "empty", "short", "rows"]
)
def test_tiff_files_of_which_strips_are_missing_are_refused(pixels, compression, tag, value):
    data = whole(pixels is DEEP, compression)
    place = 0 if tag == 257 else 4
    assert refusal(with_tag(data, tag, {place: value})).reason in ("corrupt", "truncated")


@pytest.mark.parametrize("compression", ["jpeg", "packbits", "zlib", "lzw", "zstd"])
@pytest.mark.parametrize("arranged", [{"rowsperstrip": 48}, {"tile": (128, 128)}], ids=["strips", "tiles"])
def test_tiff_files_of_which_a_strip_is_damaged_are_refused(compression, arranged):
    data = tiff(BIG, compression=compression, **arranged)
    assert apart(read(data), BIG) < 4
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        at, size = page.dataoffsets[4], page.databytecounts[4]
    assert refusal(data[: at + size // 3] + bytes(size // 3) + data[at + 2 * (size // 3) :]).reason == "corrupt"


@pytest.mark.parametrize("deep", [False, True])
def test_a_png_file_whose_rows_are_not_all_there_is_refused(deep):
    rows = (IMAGE.astype(">u2") * 257 if deep else IMAGE)[: HEIGHT // 2]
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16 if deep else 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(corpus.png_chunk(*one) for one in chunks)
    assert refusal(data).reason in ("corrupt", "truncated")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("side", [16, 17, 33])
def test_png_files_of_every_kind_are_whole(mode, side):
    drawn = Image.fromarray(IMAGE).crop((0, 0, side, 16 + side)).convert(mode)
    assert read(corpus.pillow(drawn, "PNG")).pixels.shape == (16 + side, side, 3)


def test_a_value_of_a_deep_grey_png_file_may_be_see_through():
    key = int(GREY[5, 7])
    rows = b"".join(b"\0" + row.tobytes() for row in GREY.astype(">u2") * 257)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", key * 257)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n" + b"".join(corpus.png_chunk(*one) for one in chunks)
    truth = np.where(key == GREY, 255, GREY)
    assert "from_rgba" in both_are(data, np.repeat(truth[..., None], 3, axis=2)).notes


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_an_opacity_of_nothing_anywhere_is_none(format):
    nothing = np.dstack([IMAGE, np.zeros(IMAGE.shape[:2], np.uint8)])
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    both_are(corpus.picture(format, nothing, **options))


# JPEG 2000 that Pillow shows otherwise

LIGHT = IMAGE.copy()
LIGHT[10:40, 10:60] = 255


def jp2(samples: np.ndarray, *channels: tuple[int, int, int], **options: object) -> bytes:
    """A JP2 file; it may say what its channels are (ITU-T T.800, I.5.3.6)."""
    data = imagecodecs.jpeg2k_encode(samples, codecformat="jp2", reversible=True, level=0, **options)
    if not channels:
        return data
    body = struct.pack(">H", len(channels)) + b"".join(struct.pack(">3H", *one) for one in channels)
    box = struct.pack(">I", 8 + len(body)) + b"cdef" + body
    at = data.find(b"jp2h") - 4
    length = int.from_bytes(data[at : at + 4], "big")
    grown = struct.pack(">I", length + len(box)) + data[at + 4 : at + length] + box
    return data[:at] + grown + data[at + length :]


@pytest.mark.parametrize(
    ("data", "truth"),
    [
        (jp2(LIGHT.astype(np.uint16) * 257), LIGHT),
        (jp2((LIGHT.astype(np.uint32) * 4095 // 255).astype(np.uint16), bitspersample=12), LIGHT),
        (jp2(np.dstack([LIGHT, np.full(GREY.shape, 255, np.uint8)]).astype(np.uint16) * 257), LIGHT),
        (jp2(LIGHT[..., 0].astype(np.uint16) * 257), np.repeat(LIGHT[..., :1], 3, axis=2)),
        (jp2(IMAGE, (0, 0, 3), (1, 0, 2), (2, 0, 1)), IMAGE[..., ::-1]),
        (jp2(IMAGE, (0, 0, 1), (1, 0, 2), (2, 0, 3)), IMAGE),
        (jp2((GREY.astype(np.int32) * 257 - 32768).astype(np.int16)), np.repeat(GREY[..., None], 3, axis=2)),
    ],
    ids=["deep", "12 bits", "with opacity", "grey", "blue first", "as usual", "signed"],
)
def test_jpeg_2000_files_of_every_arrangement(data, truth):
    both_are(data, truth, 0.6)


# DICOM whose length has several explanations

MONOCHROME = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PlanarConfiguration": None}


@pytest.mark.parametrize(
    "data",
    [
        image(IMAGE.tobytes() + OTHER.tobytes()),
        image(PLANES + PLANES, PlanarConfiguration=1),
        image(GREY.tobytes() + GREY[::-1].tobytes(), **MONOCHROME),
        image(Rows=HEIGHT // 2),
        image(Columns=WIDTH // 2),
        image(GREY.tobytes(), Rows=HEIGHT // 2, **MONOCHROME),
        image(IMAGE.tobytes() + OTHER.tobytes(), BitsAllocated=None),
    ],
    ids=["two frames", "by planes", "grey", "rows", "columns", "rows of grey", "no bits"],
)
def test_twice_as_many_bytes_are_deeper_samples_only_where_the_picture_shows_it(data):
    for way in (lambda one: one, cleaned):
        with pytest.raises(BadInput) as refused:
            read(way(data))
        assert refused.value.reason in ("multi_frame", "corrupt")


@pytest.mark.parametrize("kind", ["<u2", ">u2"])
@pytest.mark.parametrize("scale", [1, 16, 257])
@pytest.mark.parametrize("by_plane", [False, True])
def test_deeper_samples_are_seen_under_a_header_of_8_bits(kind, scale, by_plane):
    samples = (IMAGE.astype(np.uint16) * scale).astype(kind)
    body = np.moveaxis(samples, -1, 0).tobytes() if by_plane else samples.tobytes()
    both_are(image(body, PlanarConfiguration=int(by_plane)), IMAGE, 0.6)


COLOURS = np.random.default_rng(3).integers(0, 256, (256, 3)).astype(np.uint16)


def palette(pixels: bytes, descriptor: list[int], entries: int = 256, **values: object) -> bytes:
    made = {"PhotometricInterpretation": "PALETTE COLOR", "SamplesPerPixel": 1, "PlanarConfiguration": None}
    for place, colour in enumerate(("Red", "Green", "Blue")):
        made[f"{colour}PaletteColorLookupTableDescriptor"] = descriptor
        made[f"{colour}PaletteColorLookupTableData"] = (COLOURS[:entries, place] * 257).astype("<u2").tobytes()
    return image(pixels, **made, **values)


def test_a_palette_of_signed_indices_begins_below_0():
    indices = (GREY.astype(np.int16) - 128).astype("<i2").tobytes()
    signed = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
    both_are(palette(indices, [256, 65536 - 128, 16], **signed), COLOURS[GREY].astype(np.uint8))


def test_a_palette_of_fewer_entries_than_it_says_is_refused():
    refused = refusal(palette(GREY.tobytes(), [256, 0, 16], entries=200))
    assert (refused.reason, "Lookup Table Data" in str(refused)) == ("corrupt", True)


@pytest.mark.parametrize("change", [b"\r", b"\r\r\r", b"\r\n"])
def test_a_header_with_a_byte_too_many_is_refused_by_where_it_breaks_off(change):
    data = image()
    at = data.find(b"\x10\0\x20\0LO")  # Patient ID (0010,0020)
    refused = refusal(data[:at] + change + data[at:])
    assert refused.reason == "truncated"
    assert "Patient's Name (0010,0010)" in str(refused)
    with pytest.raises(BadInput) as copied:
        cleaned(data[:at] + change + data[at:])
    assert (copied.value.reason, str(copied.value)) == (refused.reason, str(refused))


def test_a_jpeg_file_that_states_its_height_at_its_end_is_refused_by_that():
    data = jpeg()
    at = data.find(b"\xff\xc0") + 5
    late = data[:at] + b"\0\0" + data[at + 2 : -2] + b"\xff\xdc\0\4" + (480).to_bytes(2, "big") + b"\xff\xd9"
    refused = refusal(late)
    assert (refused.reason, "DNL" in str(refused)) == ("unsupported_format", True)


def test_a_bmp_file_with_unusual_masks_is_refused_by_that_and_is_not_damaged():
    body = np.dstack([IMAGE, np.zeros(IMAGE.shape[:2], np.uint8)])[::-1].tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 32, 3, len(body), 2835, 2835, 0, 0)
    header += struct.pack("<III", 0x3FF, 0xFFC00, 0x3FF00000)
    start = 14 + len(header)
    data = b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + body
    refused = refusal(data)
    assert (refused.reason, "BMP" in str(refused)) == ("unsupported_format", True)
