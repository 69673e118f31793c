"""TIFF, PNG, JPEG and newer files: the right picture in the right colours, or a reason."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from dermbatch.errors import BadInput
from dermbatch.images.pixels import adobe_rgb
from tests.drawn import (
    DEEP,
    GREY,
    HEIGHT,
    IMAGE,
    JLS,
    LOSSY,
    WIDTH,
    apart,
    both_are,
    coded,
    image,
    jpeg,
    read,
    refusal,
    saved,
    tiff,
)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("kind", ["<u2", ">u2", "u1"])
def test_tiff_files_of_every_arrangement(compression, planar, kind):
    pixels = (IMAGE.astype(np.uint16) * 257).astype(kind) if kind != "u1" else IMAGE
    pixels = np.moveaxis(pixels, -1, 0) if planar == "separate" else pixels
    byteorder = ">" if kind == ">u2" else "<"
    data = tiff(pixels, compression=compression, planarconfig=planar, byteorder=byteorder)
    assert apart(read(data), IMAGE) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_tiff_files_are_turned_once(orientation):
    plain = read(tiff(IMAGE, extratags=[(274, "H", 1, orientation, True)]))
    deep = read(tiff(DEEP, extratags=[(274, "H", 1, orientation, True)]))
    assert np.array_equal(plain.pixels, deep.pixels)
    assert ("exif_rotated" in deep.notes) == (orientation > 1)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("unspecified", IMAGE),
        ("unassalpha", (IMAGE * 0.5 + 127.5)),
        ("assocalpha", IMAGE.astype(int) // 2 + 127.5),
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_a_fourth_channel_is_opacity_only_where_it_says_so(kind, expected, deep):
    share = np.full((HEIGHT, WIDTH, 1), 128 if kind != "unspecified" else 0, np.uint8)
    colours = IMAGE // 2 if kind == "assocalpha" else IMAGE
    pixels = np.concatenate([colours, share], axis=-1)
    pixels = pixels.astype(np.uint16) * 257 if deep else pixels
    assert apart(read(tiff(pixels, extrasamples=[kind])), expected) < 2


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_deep_grey_tiff_files(photometric):
    pixels = GREY.astype(np.uint16) * 257
    pixels = 65535 - pixels if photometric == "miniswhite" else pixels
    assert apart(read(tiff(pixels, photometric=photometric)), np.dstack([GREY] * 3)) == 0


def pages(*pixels: np.ndarray, flags: tuple[int, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for number, one in enumerate(pixels):
            flag = flags[number] if flags else 0
            file.write(one, photometric="rgb", subfiletype=flag, metadata=None)
    return buffer.getvalue()


@pytest.mark.parametrize("flags", [(1, 0), (0, 1), (0, 0), (1, 1)])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("deep", [True, False])
def test_the_full_picture_is_read_and_not_its_thumbnail(flags, first, deep):
    small = cv2.resize(IMAGE, (WIDTH // 4, HEIGHT // 4))
    pair = [(small, flags[0]), (IMAGE, flags[1])]
    pair = pair if first else pair[::-1]
    pixels = [one.astype(np.uint16) * 257 if deep else one for one, _ in pair]
    assert apart(read(pages(*pixels, flags=tuple(flag for _, flag in pair))), IMAGE) == 0


def test_two_pictures_are_none():
    assert refusal(pages(IMAGE, IMAGE)).reason == "multi_frame"
    assert refusal(pages(IMAGE, np.ascontiguousarray(IMAGE[: HEIGHT // 3]))).reason == "multi_frame"


@pytest.mark.parametrize("below", [False, True])
def test_raw_files_of_cameras_are_refused_by_name(below):
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        if below:
            file.write(cv2.resize(IMAGE, (40, 30)), photometric="rgb", subifds=1, subfiletype=1, metadata=None)
        file.write(GREY.astype(np.uint16), photometric="cfa", metadata=None)
    refused = refusal(buffer.getvalue())
    assert refused.reason == "unsupported_format"
    assert "raw" in str(refused)


@pytest.mark.parametrize("kind", ["<f4", "<u4", "<i2", "<f8"])
def test_samples_that_are_no_picture_are_refused_by_name(kind):
    refused = refusal(tiff(IMAGE.astype(kind)))
    assert refused.reason == "unsupported_format"
    assert "TIFF" in str(refused)


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("format", ["tiff", "png"])
def test_samples_of_fewer_bits_than_their_words_are_no_night(bits, format):
    pixels = (IMAGE.astype(np.uint32) * ((1 << bits) - 1) // 255).astype(np.uint16)
    data = tiff(pixels) if format == "tiff" else cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    found = read(data)
    assert apart(found, IMAGE) < 1
    assert "scaled_to_used_bits" in found.notes


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_adobe_rgb_is_seen_in_exif_too(format):
    """By its colour space; the case 126 has DCF's R03."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 2
    more = {"quality": 95, "subsampling": 0} if format == "JPEG" else {"lossless": True}
    buffer, other = io.BytesIO(), io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, format, exif=exif.tobytes(), **more)
    Image.fromarray(IMAGE).save(other, format, icc_profile=adobe_rgb(), **more)
    found = read(buffer.getvalue())
    assert "from_icc" in found.notes
    assert np.array_equal(found.pixels, read(other.getvalue()).pixels)
    assert apart(found, IMAGE) > 1


@pytest.mark.parametrize("space", ["ADOBERGB", "SRGB"])
def test_the_color_space_of_dicom_counts_without_a_profile(space):
    assert ("from_icc" in read(image(ColorSpace=space)).notes) == (space == "ADOBERGB")


def test_odd_jpeg_files_are_decoded():
    assert apart(read(JLS), IMAGE) == 0
    deep = imagecodecs.jpeg8_encode(IMAGE.astype(np.uint16) * 16, level=98, bitspersample=12)
    assert apart(read(deep), IMAGE) < LOSSY
    assert refusal(deep[:-100]).reason == "truncated"


@pytest.mark.parametrize("behind", [b"", bytes(100), b"\r\n--boundary--\r\n" * 10])
def test_what_is_behind_a_jpeg_file_is_none_of_it(behind):
    assert apart(read(jpeg() + behind), IMAGE) < LOSSY


@pytest.mark.parametrize("format", ["JPEG2000", "AVIF"])
def test_newer_formats_are_taken(format):
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, format, **({"quality": 95} if format == "AVIF" else {}))
    assert apart(read(buffer.getvalue()), IMAGE) < LOSSY
    with pytest.raises(BadInput):
        read(buffer.getvalue()[: len(buffer.getvalue()) // 2])


def palette_tiff(scale: int) -> tuple[bytes, np.ndarray]:
    """A palette picture whose entries have their colours in the high byte (257) or in the low one alone (1)."""
    picture = Image.fromarray(IMAGE).quantize(200)
    table = np.zeros((256, 3), np.uint16)
    table[:200] = np.frombuffer(bytes(picture.getpalette()[:600]), np.uint8).reshape(-1, 3)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, np.asarray(picture), photometric="palette", colormap=np.ascontiguousarray(table.T * scale)
    )
    return buffer.getvalue(), table[np.asarray(picture)].astype(np.uint8)


@pytest.mark.parametrize("scale", [257, 256, 1])
def test_tiff_palettes_of_either_byte(scale):
    data, truth = palette_tiff(scale)
    assert apart(read(data), truth) < 1


def test_unknown_compressions_of_tiff_files_are_refused_by_name():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, IMAGE, photometric="rgb")
    data = bytearray(buffer.getvalue())
    at = data.index(struct.pack("<HHIH", 259, 3, 1, 1))
    data[at + 8 : at + 10] = struct.pack("<H", 65000)
    refused = refusal(bytes(data))
    assert refused.reason == "unsupported_format"
    assert "65000" in str(refused)


def test_sub_sampled_colours_of_tiff_files_that_are_not_compressed_are_refused_by_name():
    strip = bytes(HEIGHT * WIDTH * 3 // 2)
    entries = [(256, 3, WIDTH), (257, 3, HEIGHT), (258, 3, 8), (259, 3, 1), (262, 3, 6), (273, 4, 4096)]
    entries += [(277, 3, 3), (278, 3, HEIGHT), (279, 4, len(strip)), (530, 3, 2 | 2 << 16)]
    body = b"".join(struct.pack("<HHII", tag, kind, 2 if tag == 530 else 1, value) for tag, kind, value in entries)
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4)
    refused = refusal(data.ljust(4096, b"\0") + strip)
    assert refused.reason == "unsupported_format"
    assert "sub-sampled" in str(refused)


DARK = IMAGE // 8


@pytest.mark.parametrize("kind", ["DICOM", "coded", "BMP", "TIFF", "JPEG", "PNG", "WEBP", "JPEG2000"])
def test_files_that_were_copied_as_text_are_refused_by_what_happened(kind):
    def made(picture: np.ndarray) -> bytes:
        return image(picture.tobytes()) if kind == "DICOM" else saved(kind, picture)

    data = coded(jpeg()) if kind == "coded" else made(IMAGE)
    lines = made(DARK) if kind in ("DICOM", "BMP", "TIFF") else data
    assert "CR LF" in str(refusal(lines.replace(b"\n", b"\r\n")))
    assert "binary mode" in str(refusal(data.decode("latin-1").encode()))
    assert "binary mode" in str(refusal(data.decode(errors="replace").encode()))


def test_lines_of_text_are_no_sign_of_damage():
    bright = np.maximum(IMAGE, 40)
    data = image(bright.tobytes(), ImageComments="\r\n".join(["a line of text"] * 100), Manufacturer="äöü" * 20)
    both_are(data, bright)


def described(kind: str, primaries: int, transfer: int) -> bytes:
    """The picture as a file that says in its own way which colours it has."""
    if kind == "avif":
        return imagecodecs.avif_encode(
            IMAGE, level=100, speed=10, primaries=primaries, transfer=transfer, matrix=0
        )
    return with_chunks({b"cICP": bytes([primaries, transfer, 0, 1])})


def with_chunks(chunks: dict[bytes, bytes]) -> bytes:
    data = saved("PNG")
    more = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks.items()
    )
    return data[:33] + more + data[33:]


def to_srgb_by_hand(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.abs(linear) ** (1 / 2.4) - 0.055) * 255


P3_TO_SRGB = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
P3_CHUNKS = {
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
}


@pytest.mark.parametrize(
    "data",
    [described("png", 12, 13), described("avif", 12, 13), with_chunks(P3_CHUNKS)],
    ids=["cICP", "AVIF", "cHRM"],
)
def test_colours_of_displays_are_converted_however_a_file_says_so(data):
    linear = np.where(IMAGE <= 10, IMAGE / 255 / 12.92, ((IMAGE / 255 + 0.055) / 1.055) ** 2.4)
    found = read(data)
    assert "from_icc" in found.notes
    assert apart(found, to_srgb_by_hand((linear @ P3_TO_SRGB.T).clip(0, 1))) < LOSSY


def test_linear_samples_of_a_png_file_are_made_as_light_as_they_are():
    found = read(with_chunks({b"gAMA": struct.pack(">I", 100_000)}))
    assert apart(found, to_srgb_by_hand(IMAGE / 255)) < LOSSY


@pytest.mark.parametrize("kind", ["png", "avif"])
def test_high_dynamic_range_is_refused_by_name(kind):
    refused = refusal(described(kind, 9, 16))
    assert refused.reason == "unsupported_format"
    assert "sRGB" in str(refused)


@pytest.mark.parametrize(
    "data",
    [
        described("png", 1, 13),
        described("avif", 1, 13),
        described("avif", 2, 2),
        with_chunks({b"sRGB": b"\0", b"gAMA": struct.pack(">I", 100_000)}),
        with_chunks({b"gAMA": struct.pack(">I", 45455)}),
        with_chunks({b"gAMA": b"\0\0\0\0", b"cHRM": bytes(32)}),
    ],
)
def test_colours_that_are_said_to_be_srgb_stay(data):
    found = read(data)
    assert apart(found, IMAGE) < LOSSY
    assert "from_icc" not in found.notes


def test_the_profile_of_a_jp2_file_counts():
    data = imagecodecs.jpeg2k_encode(IMAGE, codecformat="jp2", reversible=True, level=0)
    at = data.index(b"colr") - 4
    body = b"colr\2\0\0" + adobe_rgb()
    at_header = data.index(b"jp2h") - 4
    length = int.from_bytes(data[at_header : at_header + 4], "big")
    box = int.from_bytes(data[at : at + 4], "big")
    grown = struct.pack(">I", length + len(body) + 4 - box) + data[at_header + 4 : at]
    made = data[:at_header] + grown + struct.pack(">I", len(body) + 4) + body + data[at + box :]
    truth = read(saved_with_profile())
    assert apart(read(made), truth.pixels.astype(int)) < 1
    lab = data[: at + 11] + struct.pack(">I", 14) + data[at + 15 :]
    assert "colour space" in str(refusal(lab))


def saved_with_profile() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, "PNG", icc_profile=adobe_rgb())
    return buffer.getvalue()
