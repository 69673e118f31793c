"""Uncompressed pixels of DICOM files prove what their header lacks or has wrong, or a refusal names it."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
)

from dermbatch.errors import BadInput
from tests.corpus import changed_dicom
from tests.drawn import (
    DEEP,
    GREY,
    HEIGHT,
    IMAGE,
    LOSSY,
    PLANES,
    WIDTH,
    apart,
    both_are,
    cleaned,
    coded,
    grey,
    halved,
    image,
    items,
    jpeg,
    read,
    refusal,
    ycbcr,
)


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


def test_headers_are_mended_in_copies_without_identity():
    """What a reader would have to mend is written right."""
    made = pydicom.dcmread(io.BytesIO(cleaned(image(SamplesPerPixel=None, BitsAllocated=None))))
    assert (made.SamplesPerPixel, made.BitsAllocated) == (3, 8)
    with pytest.raises(BadInput) as caught:
        cleaned(image(IMAGE.tobytes()[:-2]))
    assert caught.value.reason == "truncated"


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
