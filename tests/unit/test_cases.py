"""Inputs made after public bug reports (../shared/cases): the right picture, de-identified or not, or a reason.

Beside them stand cases of the same kinds that are made here.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydantic import SecretStr
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import write_file_meta_info
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from dermbatch.errors import BadInput
from dermbatch.images.imagefile import SourceImage, read_image
from dermbatch.images.pixels import adobe_rgb
from orchestrator.planning.intake.frames import count_frames
from orchestrator.planning.privacy.deidentify import deidentify
from orchestrator.planning.privacy.profile import Profile
from orchestrator.planning.privacy.pseudonyms import Pseudonyms
from tests import corpus
from tests.corpus import changed_dicom

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"
LIMIT = 120_000_000
IMAGE = corpus.DRAWN.image
HEIGHT, WIDTH = IMAGE.shape[:2]
GREY = cv2.cvtColor(IMAGE, cv2.COLOR_RGB2GRAY)
LOSSY = 4  # mean difference of 255

REFUSED = {
    "31-native-no-photometricinterpretation": ("corrupt", "Photometric Interpretation (0028,0004) is missing"),
    "108-dng-like-subifd": ("unsupported_format", "DNG"),
    "135-tiff-float32": ("unsupported_format", "floating point"),
}
"""Cases with true pixels that are refused all the same, and why: nothing proves what is meant."""


def read(data: bytes, frame: int | None = None) -> SourceImage:
    return read_image(data, max_pixels=LIMIT, frame=frame)


def counted(data: bytes) -> int:
    return count_frames(lambda length: data[:length], len(data))


def cleaned(data: bytes) -> bytes:
    profile = Profile(name="p", dates="keep", uids="keep", burned_in_text="flag")
    return deidentify(data, profile, Pseudonyms(SecretStr("s" * 40)), max_pixels=LIMIT).data


def apart(found: SourceImage, truth: np.ndarray) -> float:
    assert found.pixels.shape == truth.shape
    return float(np.abs(found.pixels.astype(int) - truth).mean())


def both_are(data: bytes, truth: np.ndarray = IMAGE, limit: float = 0.0) -> SourceImage:
    """The picture as it is, and of the de-identified copy: equal, and the true one."""
    found = read(data)
    assert apart(found, truth) <= limit
    copy = read(cleaned(data))
    assert np.array_equal(copy.pixels, found.pixels)
    assert (copy.pixel_spacing_mm, copy.pixel_aspect) == (found.pixel_spacing_mm, found.pixel_aspect)
    return found


def refusal(data: bytes) -> BadInput:
    """Why it is refused, with its identity and without."""
    for attempt in (read, cleaned):
        with pytest.raises(BadInput) as caught:
            attempt(data)
        assert "Error" not in str(caught.value)
    with pytest.raises(BadInput) as caught:
        read(data)
    return caught.value


def folders() -> list[Path]:
    return sorted(path.parent for path in CASES.glob("*/truth.npz"))


@pytest.mark.shared_data
@pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the cases in {CASES}")
@pytest.mark.parametrize("folder", [path.name for path in folders()])
def test_every_case_gives_its_true_picture_or_a_reason(folder):
    truth = np.load(CASES / folder / "truth.npz")["pixels"].astype(int)
    (path,) = (path for path in (CASES / folder).iterdir() if path.suffix != ".npz")
    data = path.read_bytes()
    if folder in REFUSED:
        refused = refusal(data)
        assert refused.reason == REFUSED[folder][0]
        assert REFUSED[folder][1] in str(refused)
    elif truth.ndim == 4:
        assert counted(data) == counted(cleaned(data)) == len(truth)
        for number, one in enumerate(truth, 1):
            assert apart(read(data, number), one) < LOSSY
            assert apart(read(cleaned(data), number), one) < LOSSY
    else:
        both_are(data, truth, LOSSY)


@pytest.mark.shared_data
@pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the cases in {CASES}")
@pytest.mark.parametrize("name", ["IMG_0001.HEIC", "scan.jp2", "x.avif"])
def test_pictures_of_telephones_are_taken(name):
    folder = CASES / "131-heic-jp2-avif-in-folder"
    truth = read((folder / "ok.png").read_bytes()).pixels.astype(int)
    assert apart(read((folder / name).read_bytes()), truth) < LOSSY


@pytest.mark.shared_data
@pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the cases in {CASES}")
@pytest.mark.parametrize(
    ("folder", "spacing", "note"),
    [
        ("200-spacing-decimal-comma", (0.05, 0.05), "spacing_decimal_comma"),
        ("202-spacing-vr-ut", (0.05, 0.05), None),
        ("204-spacing-one-value", None, "spacing_unusable"),
        ("210-spacing-1-1-placeholder", None, "spacing_placeholder"),
    ],
)
def test_measures_are_true_or_none(folder, spacing, note):
    data = (CASES / folder / "a.dcm").read_bytes()
    found = read(data)
    assert found.pixel_spacing_mm == spacing
    assert note is None or note in found.notes
    assert read(cleaned(data)).pixel_spacing_mm == spacing


# Cases of the same kinds, made here


def image(pixels: bytes | None = None, syntax: str | None = None, **values: object) -> bytes:
    """The phantom's data set, uncompressed, with other pixel data and values; None takes an element out."""

    def change(dataset: Dataset) -> None:
        if pixels is not None:
            dataset.PixelData = pixels + bytes(len(pixels) % 2)
        if syntax is not None:
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset["PixelData"].is_undefined_length = dataset.PixelData[:4] == b"\xfe\xff\x00\xe0"
        for keyword, value in values.items():
            if value is None:
                dataset.pop(keyword, None)
            elif keyword.endswith("LookupTableDescriptor"):
                dataset.add_new(keyword, "US", value)
            elif keyword.endswith("LookupTableData"):
                dataset.add_new(keyword, "OW", value)
            else:
                setattr(dataset, keyword, value)
        dataset["PixelData"].VR = "OW" if dataset.get("BitsAllocated", 8) > 8 else "OB"

    return changed_dicom(change)


def ycbcr() -> np.ndarray:
    return cv2.cvtColor(IMAGE, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]


def jpeg(subsampling: str = "4:2:0", keep_rgb: bool = False) -> bytes:
    buffer = io.BytesIO()
    more = {"keep_rgb": True} if keep_rgb else {"subsampling": subsampling}
    Image.fromarray(IMAGE).save(buffer, "JPEG", quality=95, **more)
    return buffer.getvalue()


def bare(stream: bytes) -> bytes:
    """A JPEG stream without application markers."""
    kept, at = b"\xff\xd8", 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        kept += b"" if 0xE0 <= stream[at + 1] <= 0xEF else stream[at:end]
        at = end
    return kept + stream[at:]


def coded(stream: bytes, syntax: str = JPEGBaseline8Bit, **values: object) -> bytes:
    return image(encapsulate([stream]), syntax, **values)


PLANES = np.moveaxis(IMAGE, -1, 0).tobytes()
DEEP = (IMAGE.astype(np.uint16) * 257).astype("<u2")
JLS = imagecodecs.jpegls_encode(IMAGE)
J2K = imagecodecs.jpeg2k_encode(IMAGE, codecformat="j2k", reversible=True, level=0)


def items(*fragments: bytes, table: tuple[int, ...] = ()) -> bytes:
    """Encapsulated pixel data of these fragments, with this offset table."""
    contents = [struct.pack(f"<{len(table)}I", *table), *(one + bytes(len(one) % 2) for one in fragments)]
    return b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(one)) + one for one in contents)


def halved(*streams: bytes) -> list[bytes]:
    """Two fragments of each."""
    return [part for one in streams for part in (one[: len(one) // 4 * 2], one[len(one) // 4 * 2 :])]


OTHER = np.ascontiguousarray(IMAGE[::-1])
J2K_OTHER = imagecodecs.jpeg2k_encode(OTHER, codecformat="j2k", reversible=True, level=0)
JLS_OTHER = imagecodecs.jpegls_encode(OTHER)
RLE = [
    RLELosslessEncoder.encode(
        one,
        encoding_plugin="pydicom",
        rows=HEIGHT,
        columns=WIDTH,
        samples_per_pixel=3,
        number_of_frames=1,
        bits_allocated=8,
        bits_stored=8,
        pixel_representation=0,
        photometric_interpretation="RGB",
        planar_configuration=0,
    )
    for one in (IMAGE, OTHER)
]


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({"SamplesPerPixel": 1}, "corrected_samples_per_pixel"),
        ({"SamplesPerPixel": None, "PlanarConfiguration": None}, "corrected_planar_configuration"),
        ({"PlanarConfiguration": 1}, "corrected_planar_configuration"),
        ({"BitsAllocated": None, "SamplesPerPixel": None}, "corrected_bits_allocated"),
        ({"BitsAllocated": 16}, "corrected_bits_allocated"),
        ({"BitsAllocated": 1}, "corrected_bits_allocated"),
        ({"BitsStored": 1}, "corrected_bits_stored"),
        ({"BitsStored": 1, "HighBit": 0}, "corrected_bits_stored"),
        ({"BitsStored": 4, "HighBit": 3}, "corrected_bits_stored"),
        ({"BitsStored": None}, "corrected_bits_stored"),
        ({"BitsStored": 16}, "corrected_bits_stored"),
        ({"HighBit": 15}, "corrected_high_bit"),
        ({"HighBit": None}, None),
        ({"PixelRepresentation": None}, None),
        ({"NumberOfFrames": 99_999_999}, "corrected_number_of_frames"),
        ({"PhotometricInterpretation": "rgb"}, None),
    ],
)
def test_uncompressed_pixels_prove_what_a_header_lacks_or_has_wrong(values, note):
    found = both_are(image(**values))
    assert note is None or note in found.notes


def grey(pixels: bytes | None = None, **values: object) -> bytes:
    attributes = {"SamplesPerPixel": 1, "PlanarConfiguration": None, "PhotometricInterpretation": "MONOCHROME2"}
    return image(GREY.tobytes() if pixels is None else pixels, **{**attributes, **values})


SIGNED = ((GREY.astype("<i2") - 128) * 16).astype("<i2").tobytes()
DEEP_SIGNED = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}


@pytest.mark.parametrize(
    ("data", "truth", "note"),
    [
        (image(PixelRepresentation=1), IMAGE, "corrected_pixel_representation"),
        (grey(PixelRepresentation=1), GREY, "corrected_pixel_representation"),
        (grey(SIGNED, **DEEP_SIGNED), GREY, None),
        (grey((GREY.astype("<u2") * 16).tobytes(), **DEEP_SIGNED), GREY, "corrected_pixel_representation"),
        (coded(jpeg(), PhotometricInterpretation="YBR_FULL_422", PixelRepresentation=1), IMAGE, None),
    ],
    ids=["colours", "grey", "signed", "deep", "jpeg"],
)
def test_a_sign_is_there_where_the_samples_have_one(data, truth, note):
    found = both_are(data, np.dstack([truth] * 3) if truth.ndim == 2 else truth, LOSSY)
    assert note is None or note in found.notes


@pytest.mark.parametrize("keyword", ["NumberOfFrames", "Rows", "SamplesPerPixel", "BitsStored"])
@pytest.mark.parametrize("written", ['"{}"', "{} ", "{}\\{}", "-1", "0", "x", "", "1e3"])
def test_numbers_are_read_however_they_are_written(keyword, written):
    def change(dataset: Dataset) -> None:
        dataset[keyword] = DataElement(keyword, "LO", written.format(*[dataset.get(keyword, 1)] * 2))

    data = changed_dicom(change)
    if keyword == "Rows" and written not in ('"{}"', "{} "):
        assert "Rows (0028,0010)" in str(refusal(data))
    else:
        both_are(data)


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


@pytest.mark.parametrize("interpretation", ["MONOCHROME2", "PALETTE COLOR"])
def test_colours_under_a_name_of_one_sample_are_refused_by_that_name(interpretation):
    assert "Photometric Interpretation (0028,0004)" in str(
        refusal(image(PhotometricInterpretation=interpretation))
    )


def test_a_data_set_that_is_not_deflated_is_refused_by_its_transfer_syntax():
    data = image()
    meta = pydicom.dcmread(io.BytesIO(data)).file_meta
    at = 132 + 12 + meta.FileMetaInformationGroupLength
    buffer = io.BytesIO()
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    write_file_meta_info(buffer, meta)
    assert "Transfer Syntax UID (0002,0010)" in str(refusal(data[:132] + buffer.getvalue() + data[at:]))


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (image(PLANES, PlanarConfiguration=None), "corrected_planar_configuration"),
        (image(PLANES, PlanarConfiguration=0), "corrected_planar_configuration"),
        (image(DEEP.tobytes(), BitsAllocated=8, BitsStored=16), "corrected_bits_allocated"),
        (image(DEEP.tobytes(), BitsAllocated=16, BitsStored=16, HighBit=15), "from_16_bit"),
        (image(IMAGE.astype("<u2").tobytes(), BitsAllocated=16, BitsStored=16, HighBit=15), "scaled_to_used_bits"),
        (image(IMAGE.astype("<u2").tobytes(), BitsAllocated=16, BitsStored=8, HighBit=15), "corrected_high_bit"),
        (
            image((IMAGE.astype("<u2") << 8).tobytes(), BitsAllocated=16, BitsStored=8, HighBit=15),
            "shifted_by_high_bit",
        ),
        (image(DEEP.tobytes(), BitsAllocated=16, BitsStored=12, HighBit=11), "corrected_bits_stored"),
        (image((DEEP >> 4).tobytes(), BitsAllocated=16, BitsStored=8, HighBit=7), "corrected_bits_stored"),
        (image(IMAGE.tobytes() + bytes(100)), "padding_dropped"),
    ],
)
def test_arrangements_of_samples_are_seen_in_the_bytes(data, note):
    assert note in both_are(data).notes


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("half", [False, True])
def test_sub_sampling_is_seen_in_the_length(photometric, half):
    full = ycbcr()
    four = np.empty((HEIGHT, WIDTH // 2, 4), np.uint8)
    four[..., 0], four[..., 1], four[..., 2:] = full[:, 0::2, 0], full[:, 1::2, 0], full[:, 0::2, 1:]
    data = image((four if half else full).tobytes(), PhotometricInterpretation=photometric)
    found = both_are(data, limit=LOSSY)
    wrong = half != (photometric == "YBR_FULL_422")
    assert ("corrected_photometric_interpretation" in found.notes) == wrong


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


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (image(PhotometricInterpretation=None), "Photometric Interpretation (0028,0004)"),
        (image(PhotometricInterpretation="CMYK"), "Photometric Interpretation (0028,0004)"),
        (image(Rows=None), "Rows (0028,0010)"),
        (image(Columns=None), "Columns (0028,0011)"),
        (image(BitsAllocated=12), "Bits Allocated (0028,0100)"),
        (image(bytes(1000), BitsAllocated=None), "Bits Allocated (0028,0100)"),
        (image(IMAGE.tobytes() * 3, NumberOfFrames=2), "Number of Frames (0028,0008)"),
        (
            coded(jpeg(), PhotometricInterpretation="YBR_FULL_422", NumberOfFrames=3),
            "Number of Frames (0028,0008)",
        ),
        (coded(jpeg(), PhotometricInterpretation="YBR_FULL_422", Rows=HEIGHT + 1), "Rows (0028,0010)"),
        (coded(b"no picture at all" * 20, PhotometricInterpretation="RGB"), "Pixel Data (7FE0,0010)"),
        (image(encapsulate([bytes(100)]), "1.2.840.10008.1.2.4.100"), "Transfer Syntax UID (0002,0010)"),
    ],
)
def test_a_refusal_names_the_element(data, named):
    assert named in str(refusal(data))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("stated", [8, 16])
@pytest.mark.parametrize("values", ["low", "high", "full"])
def test_palettes_of_every_width(bits, stated, values):
    """Entries of 8 or 16 bits, whatever the descriptor states, filled in the low or high byte or both."""
    indices, colours = np.unique(IMAGE.reshape(-1, 3) // 64, axis=0, return_inverse=True)
    table = indices.astype(np.uint16) * 85
    scale = {"low": 1, "high": 256, "full": 257}[values] if bits == 16 else 1
    words = {}
    for channel, colour in enumerate(("Red", "Green", "Blue")):
        entries = (table[:, channel] * scale).astype("<u2" if bits == 16 else "u1").tobytes()
        words[f"{colour}PaletteColorLookupTableData"] = entries + bytes(len(entries) % 2)
        words[f"{colour}PaletteColorLookupTableDescriptor"] = [len(table), 0, stated]
    data = image(
        colours.astype(np.uint8).tobytes(),
        PhotometricInterpretation="PALETTE COLOR",
        SamplesPerPixel=1,
        PlanarConfiguration=None,
        **words,
    )
    both_are(data, table[colours].reshape(IMAGE.shape).astype(int), limit=1)


@pytest.mark.parametrize("stated", [8, 16])
@pytest.mark.parametrize(("bits", "few"), [(8, [10, 11]), (16, [10, 11]), (16, [200, 201])])
def test_palettes_of_which_few_entries_are_used(bits, few, stated):
    """What is done to the other entries in a copy without identity changes no colour, and no depth."""
    table = np.arange(256, dtype=np.uint16) * (257 if bits == 16 else 1)
    indices = np.where(GREY > 100, *few).astype(np.uint8)
    words = {}
    for colour in ("Red", "Green", "Blue"):
        entries = table.astype("<u2" if bits == 16 else "u1")
        entries[10:12] = (20, 200)
        words[f"{colour}PaletteColorLookupTableData"] = entries.tobytes()
        words[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, stated]
    shown = entries[indices] // (257 if bits == 16 else 1)
    data = image(
        indices.tobytes(),
        PhotometricInterpretation="PALETTE COLOR",
        SamplesPerPixel=1,
        PlanarConfiguration=None,
        **words,
    )
    both_are(data, np.dstack([shown] * 3).astype(int), limit=1)


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_a_palette_of_colours_under_grey_is_refused_and_a_grey_one_says_nothing(interpretation):
    words = {}
    for number, colour in enumerate(("Red", "Green", "Blue"), 1):
        words[f"{colour}PaletteColorLookupTableData"] = (np.arange(256) // number).astype(np.uint8).tobytes()
        words[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
    grey = {"PhotometricInterpretation": interpretation, "SamplesPerPixel": 1, "PlanarConfiguration": None}
    error = refusal(image(GREY.tobytes(), **grey, **words))
    assert error.reason == "corrupt"
    assert "Photometric Interpretation" in str(error)
    words |= {f"{colour}PaletteColorLookupTableData": bytes(range(256)) for colour in ("Red", "Green", "Blue")}
    shown = GREY if interpretation == "MONOCHROME2" else 255 - GREY
    both_are(image(GREY.tobytes(), **grey, **words), np.dstack([shown] * 3))


def test_an_overlay_in_unused_bits_is_no_deeper_sample():
    samples = GREY.astype("<u2") * 16
    samples[20:60, 30:90] |= 1 << 15
    data = image(
        samples.tobytes(),
        BitsAllocated=16,
        BitsStored=12,
        HighBit=11,
        SamplesPerPixel=1,
        PlanarConfiguration=None,
        PhotometricInterpretation="MONOCHROME2",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.4",
    )
    both_are(data, np.dstack([GREY] * 3).astype(int), limit=1)


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


def test_a_pixel_aspect_ratio_is_kept_where_there_is_no_spacing():
    data = image(PixelSpacing=None, PixelAspectRatio=[2, 1])
    found = both_are(data)
    assert (found.pixel_spacing_mm, found.pixel_aspect) == (None, 2.0)
    contradicted = read(image(PixelSpacing=["0.05", "0.05"], PixelAspectRatio=[2, 1]))
    assert contradicted.pixel_spacing_mm is None
    assert contradicted.notes == ("spacing_contradicts_aspect",)


# TIFF, PNG and JPEG files


def tiff(pixels: np.ndarray, **more: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric=more.pop("photometric", "rgb"), metadata=None, **more)
    return buffer.getvalue()


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


def test_headers_are_mended_in_copies_without_identity():
    """What a reader would have to mend is written right."""
    made = pydicom.dcmread(io.BytesIO(cleaned(image(SamplesPerPixel=None, BitsAllocated=None))))
    assert (made.SamplesPerPixel, made.BitsAllocated) == (3, 8)
    with pytest.raises(BadInput) as caught:
        cleaned(image(IMAGE.tobytes()[:-2]))
    assert caught.value.reason == "truncated"


# Layouts of uncompressed pixels


def rows_padded(picture: np.ndarray, each: int) -> bytes:
    """Its rows, each with so many zeros behind it."""
    return b"".join(row.tobytes() + bytes(each) for row in picture)


OPAQUE = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
NARROW = np.ascontiguousarray(IMAGE[:, : WIDTH - 1])
NOISE = np.random.default_rng(0).bytes(54)


@pytest.mark.parametrize(
    ("data", "truth"),
    [
        (image(rows_padded(IMAGE, 1)), IMAGE),
        (image(rows_padded(IMAGE, 4)), IMAGE),
        (image(rows_padded(NARROW, 7), Columns=WIDTH - 1), NARROW),
        (image(np.dstack([IMAGE, OPAQUE]).tobytes()), IMAGE),
        (image(np.dstack([IMAGE, OPAQUE]).tobytes(), SamplesPerPixel=4), IMAGE),
        (image(np.dstack([OPAQUE, IMAGE]).tobytes(), SamplesPerPixel=4), IMAGE),
        (
            image(
                np.moveaxis(np.dstack([IMAGE, OPAQUE]), -1, 0).tobytes(), SamplesPerPixel=4, PlanarConfiguration=1
            ),
            IMAGE,
        ),
        (
            image(
                np.moveaxis(np.dstack([OPAQUE, IMAGE]), -1, 0).tobytes(), SamplesPerPixel=4, PlanarConfiguration=1
            ),
            IMAGE,
        ),
        (image(bytes(16) + IMAGE.tobytes()), IMAGE),
        (image(bytes(1000) + IMAGE.tobytes()), IMAGE),
        (image(IMAGE.tobytes() + bytes(1000)), IMAGE),
        (image(IMAGE.tobytes() + NOISE), IMAGE),
        (image(items(b"", IMAGE.tobytes())), IMAGE),
        (image(items(b"", *halved(IMAGE.tobytes()))), IMAGE),
    ],
)
def test_bytes_that_belong_to_no_pixel_are_told_from_pixels_wherever_they_are(data, truth):
    assert "padding_dropped" in both_are(data, truth).notes


def test_each_of_several_frames_may_be_padded():
    frames = [NARROW[: HEIGHT - 1], NARROW[HEIGHT - 2 :: -1]]
    assert frames[0].size % 2
    data = image(
        b"".join(one.tobytes() + b"\0" for one in frames), Rows=HEIGHT - 1, Columns=WIDTH - 1, NumberOfFrames=2
    )
    for number, truth in enumerate(frames, 1):
        assert apart(read(data, number), truth) == 0
        assert apart(read(cleaned(data), number), truth) == 0


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (image(NOISE + IMAGE.tobytes()), "Pixel Data (7FE0,0010)"),
        (image(Rows=HEIGHT - 10), "Rows (0028,0010)"),
        (image(Columns=WIDTH - 1), "Columns (0028,0011)"),
        (image(np.dstack([IMAGE, GREY]).tobytes(), SamplesPerPixel=4), "Samples per Pixel (0028,0002)"),
        (image(GREY.tobytes()), "Photometric Interpretation (0028,0004)"),
        (image(BitsAllocated=16, BitsStored=16, HighBit=15), "Bits Allocated (0028,0100)"),
        (image(b""), "Pixel Data (7FE0,0010)"),
        (image(IMAGE.tobytes()[:-600]), "Pixel Data (7FE0,0010)"),
    ],
)
def test_what_no_padding_explains_is_refused_by_name(data, sentence):
    assert sentence in str(refusal(data))


def test_rows_and_columns_that_were_exchanged_are_seen_in_the_picture():
    found = both_are(image(Rows=WIDTH, Columns=HEIGHT))
    assert {"corrected_rows", "corrected_columns"} <= set(found.notes)


@pytest.mark.parametrize("values", [{}, {"BitsStored": 12, "HighBit": 11}])
def test_samples_of_the_other_byte_order_are_seen_in_the_picture(values):
    bits = values.get("BitsStored", 16)
    deep = (GREY.astype("<u2") << (bits - 8)) + GREY.astype("<u2") % 7
    attributes = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, **values}
    truth = np.dstack([GREY] * 3)
    assert "swapped_bytes" not in both_are(grey(deep.tobytes(), **attributes), truth, 1).notes
    assert "swapped_bytes" in both_are(grey(deep.byteswap().tobytes(), **attributes), truth, 1).notes


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


# Files that are no DICOM


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


def saved(kind: str, picture: np.ndarray = IMAGE) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return buffer.getvalue()


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
        return imagecodecs.avif_encode(IMAGE, level=100, primaries=primaries, transfer=transfer, matrix=0)
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


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({"PixelSpacing": ["1e-9", "1e-9"]}, "spacing_unusable"),
        ({"PixelSpacing": None, "PixelAspectRatio": [0, 0]}, "pixel_aspect_unusable"),
        ({"PixelSpacing": None, "PixelAspectRatio": [1000, 1]}, "pixel_aspect_unusable"),
        ({"PixelSpacing": None, "PixelAspectRatio": 2}, "pixel_aspect_unusable"),
    ],
)
def test_measures_that_cannot_be_are_none(values, note):
    found = read(image(**values))
    assert (found.pixel_spacing_mm, found.pixel_aspect) == (None, None)
    assert note in found.notes


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_damaged_jpeg_ls_is_no_wrong_picture(at):
    broken = bytearray(JLS)
    broken[int(len(JLS) * at)] ^= 0x15
    refused = refusal(coded(bytes(broken), JPEGLSLossless, PhotometricInterpretation="RGB"))
    assert refused.reason == "corrupt"
    assert "JPEG-LS" in str(refused)
