"""Compressed pixels of DICOM files: streams, fragments and frames prove what their header lacks or has wrong."""

from __future__ import annotations

import imagecodecs
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from dermbatch.errors import BadInput
from tests.drawn import (
    HEIGHT,
    IMAGE,
    J2K,
    J2K_OTHER,
    JLS,
    JLS_OTHER,
    LOSSY,
    OTHER,
    RLE,
    apart,
    bare,
    both_are,
    cleaned,
    coded,
    counted,
    halved,
    image,
    items,
    jpeg,
    read,
    refusal,
)


@pytest.mark.parametrize("before", [b"\xff\xff\xff", b"\0\xff\0"])
@pytest.mark.parametrize("stream", [jpeg(), J2K], ids=["jpeg", "j2k"])
def test_fill_bytes_before_a_picture_are_none_of_it(before, stream):
    syntax, interpretation = (JPEG2000Lossless, "RGB") if stream == J2K else (JPEGBaseline8Bit, "YBR_FULL_422")
    both_are(coded(before + stream, syntax, PhotometricInterpretation=interpretation), limit=LOSSY)


def test_a_picture_in_a_jp2_file_is_that_picture():
    jp2 = imagecodecs.jpeg2k_encode(IMAGE, codecformat="jp2", reversible=True, level=0)
    both_are(coded(jp2, JPEG2000Lossless, PhotometricInterpretation="RGB"))


@pytest.mark.parametrize(
    "fragments", [[JLS], halved(JLS), [b"", JLS, b""], [JLS[i : i + 100] for i in range(0, len(JLS), 100)]]
)
@pytest.mark.parametrize("table", [True, False])
def test_fragments_of_any_size_with_and_without_an_offset_table(fragments, table):
    """Its item may be missing altogether."""
    if not table and not fragments[0]:
        fragments = fragments[1:]
    pixels = items(*fragments)[0 if table else 8 :]
    both_are(image(pixels, JPEGLSLossless, PhotometricInterpretation="RGB"))


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, ExplicitVRLittleEndian])
def test_run_lengths_are_known_under_another_transfer_syntax(syntax):
    assert "corrected_transfer_syntax_uid" in both_are(image(items(RLE[0]), syntax)).notes


@pytest.mark.parametrize("rows", [24, HEIGHT - 1, HEIGHT + 1, 2 * HEIGHT])
def test_run_lengths_of_another_size_are_refused_and_not_cut(rows):
    data = image(items(RLE[0]), RLELossless, Rows=rows)
    with pytest.raises(BadInput):
        read(data)
    with pytest.raises(BadInput):
        read(cleaned(data))


@pytest.mark.parametrize("planar", [0, 1, None])
@pytest.mark.parametrize(
    ("stream", "syntax", "declared"),
    [
        (jpeg("4:2:0"), JPEGBaseline8Bit, "RGB"),
        (bare(jpeg("4:2:0")), JPEGBaseline8Bit, "RGB"),
        (bare(jpeg("4:2:2")), JPEGBaseline8Bit, "RGB"),
        (bare(jpeg("4:4:4")), JPEGBaseline8Bit, "YBR_FULL"),
        (bare(jpeg("4:2:0")), JPEGBaseline8Bit, "YBR_PARTIAL_422"),
        (bare(jpeg("4:2:0")), JPEGBaseline8Bit, None),
        (jpeg(keep_rgb=True), JPEGBaseline8Bit, "YBR_FULL_422"),
        (bare(jpeg(keep_rgb=True)), JPEGBaseline8Bit, "RGB"),
        (jpeg(), JPEG2000Lossless, "YBR_FULL_422"),
        (jpeg(), JPEGLSLossless, "YBR_FULL_422"),
        (jpeg(), RLELossless, "YBR_FULL_422"),
        (jpeg(), ExplicitVRLittleEndian, "YBR_FULL_422"),
        (jpeg(), "1.2.840.10008.1.2.4.55", "YBR_FULL_422"),
        (JLS, JPEGLSLossless, "RGB"),
        (JLS, JPEGBaseline8Bit, "RGB"),
        (J2K, JPEG2000Lossless, "RGB"),
        (J2K, JPEGBaseline8Bit, "RGB"),
        (J2K, ExplicitVRLittleEndian, "RGB"),
    ],
)
def test_compressed_pictures_are_what_their_streams_prove(stream, syntax, declared, planar):
    data = coded(stream, syntax, PhotometricInterpretation=declared, PlanarConfiguration=planar)
    limit = 0 if stream in (JLS, J2K) else LOSSY
    found = both_are(data, limit=limit)
    assert ("corrected_planar_configuration" in found.notes) == (planar == 1)


@pytest.mark.parametrize("before", [b"", bytes(2), bytes(512)])
@pytest.mark.parametrize("behind", [b"", bytes(512), b"\xff" * 7, b"made by nobody\0"])
def test_what_is_around_a_compressed_picture_is_none_of_it(before, behind):
    both_are(coded(before + jpeg() + behind), limit=LOSSY)


@pytest.mark.parametrize(
    "values",
    [
        {"BitsAllocated": 16},
        {"BitsAllocated": None, "BitsStored": None, "HighBit": None},
        {"SamplesPerPixel": None, "PlanarConfiguration": None},
        {"SamplesPerPixel": 1},
        {"Rows": None},
        {"PixelRepresentation": None},
    ],
)
@pytest.mark.parametrize("stream", [jpeg(), JLS, J2K], ids=["jpeg", "jls", "j2k"])
def test_the_stream_says_what_the_header_lacks(stream, values):
    syntax = {jpeg(): JPEGBaseline8Bit, JLS: JPEGLSLossless, J2K: JPEG2000Lossless}[stream]
    proven = "YBR_FULL_422" if syntax == JPEGBaseline8Bit else "RGB"
    both_are(coded(stream, syntax, PhotometricInterpretation=proven, **values), limit=LOSSY)


@pytest.mark.parametrize("declared", [None, 1, 2])
@pytest.mark.parametrize("table", [(), (0,), (0, 12), (0, 0)], ids=["none", "one", "wrong", "zeros"])
@pytest.mark.parametrize(
    ("fragments", "syntax"),
    [
        ([J2K, J2K_OTHER], JPEG2000Lossless),
        (halved(J2K, J2K_OTHER), JPEG2000Lossless),
        ([JLS, JLS_OTHER], JPEGLSLossless),
        ([*halved(JLS), JLS_OTHER], JPEGLSLossless),
        ([bytes(16) + JLS + bytes(16), JLS_OTHER], JPEGLSLossless),
        (RLE, RLELossless),
        (halved(*RLE), RLELossless),
    ],
    ids=["j2k", "j2k halved", "jls", "jls one halved", "jls zeros", "rle", "rle halved"],
)
def test_frames_are_told_apart_where_their_pictures_prove_it(fragments, syntax, table, declared):
    """Whatever their number and an offset table say."""
    data = image(items(*fragments, table=table), syntax, PhotometricInterpretation="RGB", NumberOfFrames=declared)
    copy = cleaned(data)
    assert counted(data) == counted(copy) == 2
    for number, truth in enumerate((IMAGE, OTHER), 1):
        for one in (read(data, number), read(copy, number)):
            assert apart(one, truth) == 0
    if declared != 2:
        assert "corrected_number_of_frames" in read(data, 1).notes


@pytest.mark.parametrize("table", [(), (0,), (0, 12), (0, 0)], ids=["none", "one", "wrong", "zeros"])
def test_a_picture_in_several_fragments_is_one(table):
    data = image(items(*halved(*halved(J2K)), table=table), JPEG2000Lossless, PhotometricInterpretation="RGB")
    assert counted(data) == counted(cleaned(data)) == 1
    assert both_are(data).notes == ()


@pytest.mark.parametrize(
    "second", [JLS_OTHER[:-1000], imagecodecs.jpegls_encode(IMAGE[:60])], ids=["cut", "smaller"]
)
def test_pictures_that_prove_nothing_are_refused(second):
    data = image(items(JLS, second), JPEGLSLossless, PhotometricInterpretation="RGB", NumberOfFrames=None)
    assert counted(data) == 1
    with pytest.raises(BadInput, match="Number of Frames") as caught:
        read(data)
    assert caught.value.reason == "multi_frame"
    with pytest.raises(BadInput) as caught:
        read(cleaned(data))
    assert caught.value.reason == ("corrupt" if len(second) == len(JLS_OTHER) - 1000 else "multi_frame")


@pytest.mark.parametrize("missing", [None, 1])
def test_frames_are_counted_where_their_number_is_missing(missing):
    several = [jpeg("4:2:0"), jpeg("4:2:2"), jpeg("4:4:4")]
    attributes = {"PhotometricInterpretation": "YBR_FULL_422", "NumberOfFrames": missing}
    data = image(encapsulate(several), JPEGBaseline8Bit, **attributes)
    assert counted(data) == 3
    for number in (1, 2, 3):
        assert apart(read(data, number), IMAGE) < LOSSY
    with pytest.raises(BadInput, match="Number of Frames"):
        read(data)


def marked(stream: bytes, jfif: bool = False, adobe: int | None = None, ids: bytes | None = None) -> bytes:
    """A bare stream with these markers and names of components."""
    made = bytearray(bare(stream))
    if ids:
        for at, step in ((made.index(b"\xff\xc0") + 10, 3), (made.index(b"\xff\xda") + 5, 2)):
            made[at : at + 3 * step : step] = ids
    more = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0" if jfif else b""
    if adobe is not None:
        more += b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([adobe])
    return bytes(made[:2] + more + made[2:])


@pytest.mark.parametrize(
    ("stream", "declared"),
    [
        (marked(jpeg(keep_rgb=True), jfif=True, adobe=0, ids=b"\1\2\3"), "RGB"),
        (marked(jpeg("4:4:4"), jfif=True, adobe=0), "YBR_FULL_422"),
        (marked(jpeg("4:2:0"), ids=b"RGB"), "YBR_FULL_422"),
        (marked(jpeg("4:2:0"), ids=b"RGB"), "RGB"),
        (marked(jpeg("4:2:0"), adobe=0), "RGB"),
    ],
)
def test_marks_of_a_stream_that_contradict_each_other_leave_it_to_the_header_or_to_sub_sampling(stream, declared):
    both_are(coded(stream, PhotometricInterpretation=declared), limit=LOSSY)


def test_marks_that_contradict_each_other_are_no_proof():
    stream = marked(jpeg(keep_rgb=True), jfif=True, adobe=0, ids=b"\1\2\3")
    assert "Photometric Interpretation" in str(refusal(coded(stream, PhotometricInterpretation=None)))


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_damaged_jpeg_ls_is_no_wrong_picture(at):
    broken = bytearray(JLS)
    broken[int(len(JLS) * at)] ^= 0x15
    refused = refusal(coded(bytes(broken), JPEGLSLossless, PhotometricInterpretation="RGB"))
    assert refused.reason == "corrupt"
    assert "JPEG-LS" in str(refused)
