"""DICOM headers against their pixel data: the right picture, or a reason that names the element."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate_extended
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dermbatch.errors import BadInput
from tests.corpus import changed_dicom
from tests.drawn import (
    GREY,
    IMAGE,
    J2K,
    J2K_OTHER,
    JLS,
    JLS_OTHER,
    LOSSY,
    OTHER,
    RLE,
    bare,
    both_are,
    cleaned,
    coded,
    grey,
    image,
    items,
    jpeg,
    read,
    refusal,
    ycbcr,
)

GREYS = np.repeat(GREY[..., None], 3, axis=2)
DEEP = GREY.astype(np.uint16) * 16
TWELVE = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}


@pytest.mark.parametrize(
    "table", [lambda table: table, lambda table: bytes(len(table)), lambda table: table[::-1]]
)
@pytest.mark.parametrize(
    ("streams", "syntax"),
    [((J2K, J2K_OTHER), JPEG2000Lossless), ((JLS, JLS_OTHER), JPEGLSLossless), (RLE, RLELossless)],
)
def test_frames_with_an_extended_offset_table_are_where_their_pictures_are(streams, syntax, table):
    pixels, offsets, lengths = encapsulate_extended(list(streams))

    def change(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.NumberOfFrames = 2
        dataset.PixelData = pixels
        dataset["PixelData"].is_undefined_length = True
        dataset.PhotometricInterpretation = "RGB"
        dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = table(offsets), lengths

    data = changed_dicom(change)
    for number, truth in enumerate((IMAGE, OTHER), 1):
        assert np.array_equal(read(data, number).pixels, truth)
        assert np.array_equal(read(cleaned(data), number).pixels, truth)


def lossless(samples: np.ndarray, bits: int = 8) -> bytes:
    return imagecodecs.jpeg8_encode(samples, lossless=True, bitspersample=bits)


MONOCHROME = {"SamplesPerPixel": 1, "PlanarConfiguration": None, "PhotometricInterpretation": "MONOCHROME2"}


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize(
    ("stream", "syntax"),
    [
        (lossless(DEEP, 12), JPEGLosslessSV1),
        (imagecodecs.jpeg2k_encode(DEEP, level=0, reversible=True, bitspersample=12), JPEG2000Lossless),
        (imagecodecs.jpegls_encode(DEEP), JPEGLSLossless),
    ],
    ids=["jpeg", "j2k", "jpeg-ls"],
)
def test_coded_grey_samples_have_a_sign_only_where_they_are_smoother_with_it(stream, syntax, signed):
    found = both_are(coded(stream, syntax, **MONOCHROME, **TWELVE, PixelRepresentation=signed), GREYS, 1)
    assert ("corrected_pixel_representation" in found.notes) == bool(signed)


def twelve() -> bytes:
    return imagecodecs.jpeg8_encode(DEEP, level=98, bitspersample=12)


@pytest.mark.parametrize(
    ("data", "truth"),
    [
        (coded(lossless(DEEP, 12), JPEGLosslessSV1, **MONOCHROME), GREYS),
        (coded(twelve(), JPEGBaseline8Bit, **MONOCHROME), GREYS),
        (coded(twelve(), JPEGExtended12Bit, **MONOCHROME, BitsAllocated=16, BitsStored=8, HighBit=7), GREYS),
        (coded(lossless(IMAGE), JPEGLosslessSV1, BitsStored=6, HighBit=5), IMAGE),
    ],
    ids=["lossless", "extended-as-baseline", "8-stored", "6-stored"],
)
def test_a_jpeg_picture_keeps_the_bits_that_its_header_lacks(data, truth):
    both_are(data, truth, LOSSY)


def test_overlays_above_the_stored_bits_of_a_lossless_jpeg_picture_are_none_of_it():
    overlay = np.zeros_like(DEEP)
    overlay[20:40, 30:80] = 0x8000
    data = coded(lossless(DEEP | overlay, 16), JPEGLosslessSV1, **MONOCHROME, **TWELVE)
    both_are(data, GREYS, 1)


def sub_sampled() -> bytes:
    colours = ycbcr()
    halves = colours[:, ::2, 1:]
    return np.stack([colours[:, ::2, 0], colours[:, 1::2, 0], halves[..., 0], halves[..., 1]], axis=-1).tobytes()


def test_sub_sampled_colours_are_by_pixels_whatever_planar_configuration_says():
    data = image(sub_sampled(), PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=1)
    assert "corrected_planar_configuration" in both_are(data, limit=LOSSY).notes
    colours = ycbcr()
    planes = colours[..., 0].tobytes() + colours[:, ::2, 1].tobytes() + colours[:, ::2, 2].tobytes()
    data = image(planes, PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=1)
    assert "Planar Configuration (0028,0006)" in str(refusal(data))


UNMARKED = bare(jpeg("4:4:4"))
PALETTE = {
    "PhotometricInterpretation": "PALETTE COLOR",
    **{f"{one}PaletteColorLookupTableDescriptor": [256, 0, 8] for one in ("Red", "Green", "Blue")},
    **{f"{one}PaletteColorLookupTableData": bytes(range(256)) for one in ("Red", "Green", "Blue")},
}
COLOURS = "Photometric Interpretation (0028,0004)"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (image(items(RLE[0]), RLELossless, PhotometricInterpretation="YBR_ICT"), COLOURS),
        (coded(JLS, JPEGLSLossless, PhotometricInterpretation="YBR_RCT"), COLOURS),
        (coded(UNMARKED, PhotometricInterpretation="YBR_ICT"), COLOURS),
        (coded(UNMARKED, PhotometricInterpretation="YBR FULL 422"), COLOURS),
        (coded(JLS, JPEGLSLossless, PhotometricInterpretation="HSV"), COLOURS),
        (image(sub_sampled()), COLOURS),
        (coded(imagecodecs.jpeg8_encode(GREY), **MONOCHROME | PALETTE), COLOURS),
    ],
    ids=["rle", "jpeg-ls", "unmarked", "blanks", "hsv", "two-bytes", "lossy-indices"],
)
def test_what_contradicts_itself_is_refused_by_the_same_reason_on_every_route(data, words):
    refused = refusal(data)
    assert words in str(refused)
    with pytest.raises(BadInput) as copied:
        cleaned(data)
    assert copied.value.reason == refused.reason


def test_run_lengths_with_rows_for_columns_are_refused_as_they_are_and_as_a_copy():
    data = image(items(RLE[0]), RLELossless, Rows=IMAGE.shape[1], Columns=IMAGE.shape[0])
    for one in (data, cleaned(data)):
        with pytest.raises(BadInput, match=r"Rows \(0028,0010\)"):
            read(one)


def test_markers_of_a_lossless_jpeg_picture_count_as_those_of_others():
    data = coded(lossless(IMAGE), JPEGLosslessSV1, PhotometricInterpretation="YBR_FULL")
    assert "corrected_photometric_interpretation" in both_are(data).notes


@pytest.mark.parametrize("data", [image(), coded(JLS, JPEGLSLossless, PhotometricInterpretation="RGB")])
def test_the_byte_order_is_that_of_the_first_element(data):
    at = data.index(b"\x02\x00\x10\x00UI") + 8
    end = at + int.from_bytes(data[at - 2 : at], "little")
    big = b"1.2.840.10008.1.2.2\0"
    length = int.from_bytes(data[140:144], "little") + len(big) - (end - at)
    head = data[:140] + length.to_bytes(4, "little") + data[144 : at - 2]
    mislabelled = head + len(big).to_bytes(2, "little") + big + data[end:]
    assert "corrected_transfer_syntax_uid" in both_are(mislabelled).notes


def test_a_picture_of_single_bits_may_have_any_number_of_them():
    bits = (GREY[:-1, :-1] > GREY.mean()).astype(np.uint8)
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    size = {"Rows": bits.shape[0], "Columns": bits.shape[1]}
    data = grey(packed, BitsAllocated=1, BitsStored=1, HighBit=0, **size)
    both_are(data, np.repeat(bits[..., None] * 255, 3, axis=2))
