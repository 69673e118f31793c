"""What formats and decoders mean by a file, and others do not: the right picture, or a reason that names it."""

from __future__ import annotations

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from dermbatch.images.pixels import adobe_rgb, grey_profile
from tests.corpus import picture, png_chunk
from tests.drawn import GREY, IMAGE, LOSSY, both_are, refusal

HEIGHT, WIDTH = IMAGE.shape[:2]
GREYS = np.repeat(GREY[..., None], 3, axis=2)
OPACITY = np.linspace(0, 255, WIDTH).round().astype(np.uint8)[None].repeat(HEIGHT, axis=0)
ON_WHITE = (IMAGE * (OPACITY[..., None] / 255) + 255 - OPACITY[..., None]).round()


def png(samples: np.ndarray, colour_type: int, *chunks: bytes, bits: int = 8, behind: bytes = b"") -> bytes:
    """A PNG file of these samples, [H, W] or [H, W, C]."""
    lines = samples.reshape(len(samples), -1)
    if bits < 8:
        cells = np.pad(lines, ((0, 0), (0, -lines.shape[1] % (8 // bits)))).reshape(len(lines), -1, 8 // bits)
        lines = sum(cells[..., at] << (8 - bits * (at + 1)) for at in range(8 // bits))
    raw = b"".join(b"\0" + line.astype(">u2" if bits == 16 else "u1").tobytes() for line in lines)
    head = png_chunk(b"IHDR", struct.pack(">2I5B", samples.shape[1], len(samples), bits, colour_type, 0, 0, 0))
    rest = png_chunk(b"IDAT", zlib.compress(raw)) + behind + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + rest


def exif(value: bytes = struct.pack("<HH", 6, 0), kind: int = 3) -> bytes:
    return b"II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, kind, 1) + value + bytes(4)


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segments(stream: bytes, *segments: bytes) -> bytes:
    return stream[:2] + b"".join(segments) + stream[2:]


def jpeg(**options: object) -> bytes:
    return picture("JPEG", IMAGE, quality=97, subsampling=0, **options)


def linear(image: np.ndarray, exponent: float) -> np.ndarray:
    """Encoded by another exponent than sRGB's."""
    light = np.where(image <= 10, image / 255 / 12.92, ((image / 255 + 0.055) / 1.055) ** 2.4)
    return light ** (1 / exponent)


TURNED = np.rot90(IMAGE, -1)
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)
MADE = b"II*\0" + struct.pack("<IHHHI", 8, 1, 0x010F, 2, 4) + b"abc\0" + bytes(4)


@pytest.mark.parametrize(
    ("data", "truth"),
    [
        (png(IMAGE, 2, behind=png_chunk(b"eXIf", exif())), TURNED),
        (with_segments(jpeg(), segment(0xE1, b"Exif\0\0" + exif(b"\6\0\0\0", 1))), TURNED),
        (
            with_segments(
                jpeg(),
                segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP),
                segment(0xE1, b"Exif\0\0" + MADE),
            ),
            IMAGE,
        ),
        (with_segments(imagecodecs.jpegls_encode(IMAGE), segment(0xE1, b"http:\0Exif\0\0"),
                       segment(0xE1, b"Exif\0\0" + exif())), TURNED),
    ],
    ids=["behind-the-picture", "as-a-byte", "xmp-is-not-asked", "jpeg-ls"],
)  # fmt: skip
def test_a_picture_is_turned_for_exif_wherever_it_stands_and_for_nothing_else(data, truth):
    both_are(data, truth, LOSSY)


DEEP = (linear(GREY, 1.0) * 65535).round()
BRIGHT = (linear(GREY, 1.8) * 255).round().astype(np.uint8)
GAMMA_1 = png_chunk(b"gAMA", struct.pack(">I", 100_000))
ADOBE = np.asarray(
    ImageCms.profileToProfile(
        Image.fromarray(IMAGE),
        ImageCms.createProfile("sRGB"),
        ImageCms.ImageCmsProfile(io.BytesIO(adobe_rgb())),
    )
)
ICC = segment(0xE2, b"ICC_PROFILE\0\1\1" + adobe_rgb())


@pytest.mark.parametrize(
    ("data", "truth"),
    [
        (png(DEEP, 0, GAMMA_1, bits=16), GREYS),
        (png(DEEP, 0, png_chunk(b"cICP", bytes([1, 8, 0, 1])), bits=16), GREYS),
        (png(BRIGHT, 0, png_chunk(b"iCCP", b"g\0\0" + zlib.compress(grey_profile(b"g", 1.8)))), GREYS),
        (picture("JPEG", BRIGHT, quality=98, icc_profile=grey_profile(b"g", 1.8)), GREYS),
        (with_segments(imagecodecs.jpegls_encode(ADOBE), ICC), IMAGE),
        (with_segments(imagecodecs.jpeg8_encode(ADOBE.astype("u2") * 16, level=98, bitspersample=12), ICC), IMAGE),
    ],
    ids=["gamma", "code-points", "png", "jpeg", "jpeg-ls", "jpeg-12"],
)  # fmt: skip
def test_colours_and_grey_values_are_converted_in_every_format(data, truth):
    assert "from_icc" in both_are(data, truth, LOSSY).notes


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_grey_value_that_is_see_through_is_so_in_every_width(bits):
    values = GREY >> (8 - bits)
    shown = (values.astype(int) * 255 // ((1 << bits) - 1))[..., None].repeat(3, axis=2)
    shown[values == 1] = 255
    both_are(png(values, 0, png_chunk(b"tRNS", b"\0\1"), bits=bits), shown)


def bmp(indices: np.ndarray, colours: int) -> bytes:
    body = b"".join(line.tobytes() + bytes(-len(line) % 4) for line in indices[::-1])
    start = 54 + 4 * colours
    head = b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start)
    head += struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 0, len(body), 0, 0, colours, 0)
    return head + bytes(range(4 * colours)) + body


def hierarchical() -> bytes:
    return jpeg().replace(b"\xff\xc0", b"\xff\xc5", 1)


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (png(GREY >> 4, 3, png_chunk(b"PLTE", bytes(12)), bits=4), "corrupt", "palette"),
        (png(GREY >> 4, 3, bits=4), "corrupt", "palette"),
        (bmp(GREY, 5), "corrupt", "palette"),
        (png(IMAGE, 2, png_chunk(b"cICP", bytes([1, 13, 0, 0]))), "unsupported_format", "narrow range"),
        (b"\x89PNG\r\n\x1a\n" + png_chunk(b"CgBI", bytes(4)) + png(IMAGE, 2)[8:], "unsupported_format", "CgBI"),
        (hierarchical(), "unsupported_format", "hierarchical"),
    ],
    ids=["index", "no-palette", "bmp", "narrow", "cgbi", "hierarchical"],
)  # fmt: skip
def test_what_cannot_be_shown_as_it_is_meant_is_named(data, reason, words):
    refused = refusal(data)
    assert refused.reason == reason
    assert words in str(refused)


INK = np.dstack([255 - IMAGE, np.zeros((HEIGHT, WIDTH), np.uint8)])


def cmyk(samples: np.ndarray, transform: int | None) -> bytes:
    stream = imagecodecs.jpeg8_encode(samples, level=98, colorspace="CMYK", outcolorspace="CMYK")
    at = stream.index(b"\xff\xee")
    bare = stream[:at] + stream[at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big") :]
    adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform or 0]))
    return bare if transform is None else with_segments(bare, adobe)


def test_ink_of_cmyk_jpeg_files_is_as_the_marker_or_the_black_says():
    both_are(cmyk(255 - INK, 0), limit=LOSSY)
    both_are(cmyk(255 - INK, None), limit=LOSSY)
    both_are(cmyk(INK, None), limit=LOSSY)
    assert "Adobe's marker" in str(refusal(cmyk(np.full_like(INK, 128), None)))


def test_components_that_are_called_r_g_b_are_these_in_a_file_as_in_dicom():
    stream = bytearray(imagecodecs.jpeg8_encode(IMAGE, level=98, colorspace="RGB", outcolorspace="RGB"))
    at = stream.index(b"\xff\xee")
    del stream[at : at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")]
    both_are(with_segments(bytes(stream), segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")), limit=LOSSY)


@pytest.mark.parametrize("bits", [2, 5, 7])
def test_samples_of_fewer_than_8_bits_reach_white(bits):
    top = (1 << bits) - 1
    few = ((IMAGE.astype(int) * top + 127) // 255).astype(np.uint8)
    shown = (few.astype(int) * 255 + top // 2) // top
    both_are(imagecodecs.jpeg2k_encode(few, level=0, reversible=True, bitspersample=bits), shown)
    both_are(imagecodecs.jpeg8_encode(few, lossless=True, bitspersample=bits), shown)


def channels(*entries: tuple[int, int, int]) -> bytes:
    """A JP2 file of four channels that says this of them."""
    data = imagecodecs.jpeg2k_encode(np.dstack([IMAGE, OPACITY]), level=0, codecformat="jp2", reversible=True)
    header, colour = data.index(b"jp2h") - 4, data.index(b"colr") - 4
    stated = b"".join(struct.pack(">3H", *one) for one in entries)
    box = struct.pack(">I4sH", 10 + len(stated), b"cdef", len(entries)) + stated
    length = struct.pack(">I", int.from_bytes(data[header : header + 4], "big") + len(box))
    return data[:header] + length + data[header + 4 : colour] + box + data[colour:]


COLOURS = ((0, 0, 1), (1, 0, 2), (2, 0, 3))


def test_channels_of_jp2_files_are_what_the_file_says():
    both_are(channels(*COLOURS, (3, 1, 0)), ON_WHITE, 1)
    assert "extra_samples_dropped" in both_are(channels(*COLOURS, (3, 65535, 65535))).notes
    over = np.minimum(IMAGE.astype(int) + 255 - OPACITY[..., None], 255)
    both_are(channels(*COLOURS, (3, 2, 0)), over)
    five = imagecodecs.jpeg2k_encode(np.dstack([IMAGE, GREY, GREY]), level=0, reversible=True)
    assert refusal(five).reason == "unsupported_format"


def tiff(*pages: tuple[np.ndarray, dict[str, object]], **options: object) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, **options) as file:
        for samples, more in pages:
            file.write(samples, metadata=None, **{"photometric": "rgb", "planarconfig": "contig", **more})
    return buffer.getvalue()


def short(tag: int, *values: int) -> tuple[int, str, int, tuple[int, ...], bool]:
    return (tag, "H", len(values), values, True)


SHARED = np.dstack([(IMAGE * (OPACITY[..., None] / 255)).round().astype(np.uint8), OPACITY])
SEEN = np.dstack([IMAGE, OPACITY])
GREY_ON_WHITE = (GREYS * (OPACITY[..., None] / 255) + 255 - OPACITY[..., None]).round()
WHITE = {"photometric": "miniswhite"}
APART = {"planarconfig": "separate"}


@pytest.mark.parametrize(
    ("samples", "options", "truth"),
    [
        (np.moveaxis(SHARED, -1, 0), {**APART, "extrasamples": ["assocalpha"]}, ON_WHITE),
        (np.moveaxis(SEEN, -1, 0), {**APART, "extrasamples": ["unspecified"]}, IMAGE),
        (np.dstack([IMAGE, GREY, OPACITY]), {"extrasamples": ["unspecified", "unassalpha"]}, ON_WHITE),
        (np.dstack([255 - GREY, OPACITY]), {**WHITE, "extrasamples": ["unassalpha"]}, GREY_ON_WHITE),
    ],
    ids=["planes-associated", "planes-unspecified", "second", "white"],
)  # fmt: skip
def test_samples_beside_colours_are_what_tiff_says_in_every_arrangement(samples, options, truth):
    both_are(tiff((samples, options)), truth, 1)


SMALL = np.ascontiguousarray(IMAGE[::2, ::2])


def test_a_picture_in_a_sub_directory_lies_as_its_thumbnail():
    upright = {"subfiletype": 1, "subifds": 1, "extratags": [short(274, 6)]}
    found = both_are(tiff((SMALL, upright), (IMAGE, {})), TURNED)
    assert "exif_rotated" in found.notes


def stack() -> bytes:
    """Three pictures under one directory, as ImageJ writes them beyond 4 GB."""
    told = "ImageJ=1.53\nimages=3\nslices=3\n"
    return (
        tiff((GREY, {"photometric": "minisblack", "description": told, "contiguous": True})) + GREY.tobytes() * 2
    )


def volume() -> bytes:
    return tiff((np.stack([GREY] * 4), {"photometric": "minisblack", "volumetric": True, "tile": (4, 32, 32)}))


def without_photometric() -> bytes:
    entry = struct.pack("<HHI", 262, 3, 1)
    return tiff((IMAGE, {})).replace(entry, struct.pack("<HHI", 263, 3, 1))


WORDS = {"photometric": "separated"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (stack(), "multi_frame"),
        (volume(), "multi_frame"),
        (without_photometric(), "corrupt"),
        (tiff((INK, {**WORDS, "extratags": [short(332, 2)]})), "unsupported_format"),
        (tiff((INK, {**WORDS, "extratags": [short(336, 255, 0)]})), "unsupported_format"),
        (tiff((np.dstack([INK, OPACITY]), {**WORDS, "extrasamples": ["unassalpha"]})), "unsupported_format"),
        (tiff((IMAGE, {"photometric": "icclab"})), "unsupported_format"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(90), "unsupported_format"),
    ],
    ids=["stack", "volume", "no-colours", "inks", "inverted-inks", "five-inks", "lab", "cr2"],
)
def test_a_tiff_file_that_is_more_or_other_than_it_seems_is_refused_by_name(data, reason):
    assert refusal(data).reason == reason


def test_stated_primaries_of_a_tiff_file_are_converted():
    primaries = (64, 100, 33, 100, 21, 100, 71, 100, 15, 100, 6, 100)
    data = tiff((ADOBE, {"extratags": [(319, "2I", 6, primaries, True)]}))
    assert "from_icc" in both_are(data, IMAGE, LOSSY).notes
