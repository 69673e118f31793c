"""DICOM files: right colours from every encoding, spacing as stated, policy and damage with clear reasons."""

from __future__ import annotations

import io
import logging

import cv2
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from dermbatch.errors import BadInput
from dermbatch.images.imagefile import read_image
from dermbatch.images.quiet import quiet
from dermbatch.phantoms.samples import SECONDARY_CAPTURE, dicom
from tests import corpus
from tests.corpus import changed_dicom
from tests.drawn import LIMIT, read, read_or_refuse, reason

IMAGE = corpus.DRAWN.image
DICOMS = corpus.dicoms()

# Decoders may round differently (ISO/IEC 10918-2): libjpeg, which pydicom asks, and libjpeg-turbo by up to 3.
ROUNDING = 3


def ycbcr(rgb: np.ndarray) -> np.ndarray:
    """Full range, as DICOM's YBR_FULL (PS3.3 C.7.6.3.1.2)."""
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]


def with_pixels(pixels: bytes, **values: object) -> bytes:
    """The phantom's data set with other pixel data and other values."""

    def change(dataset: Dataset) -> None:
        for keyword, value in values.items():
            if value is None:
                delattr(dataset, keyword)
            elif isinstance(value, DataElement):
                dataset.add(value)
            else:
                setattr(dataset, keyword, value)
        dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
        dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"

    return changed_dicom(change)


def with_jpeg(frame: bytes, photometric: str) -> bytes:
    def change(dataset: Dataset) -> None:
        dataset.PixelData = encapsulate([frame])
        dataset.PhotometricInterpretation = photometric

    return changed_dicom(change, jpeg=True)


def mono(**values: object) -> dict[str, object]:
    return {"SamplesPerPixel": 1, "PlanarConfiguration": None, **values}


@pytest.mark.parametrize("name", DICOMS)
def test_every_case_has_its_outcome(name):
    data, outcome = DICOMS[name]
    if outcome == "ok":
        image = read(data)
        assert image.media_type == "application/dicom"
        assert image.pixels.shape == IMAGE.shape
        assert np.abs(image.pixels.astype(int) - IMAGE).mean() < 6
        assert image.pixel_spacing_mm == pytest.approx(corpus.DRAWN.pixel_spacing_mm, rel=1e-4)
    else:
        assert reason(data) == outcome


def encodings() -> dict[str, bytes]:
    """The phantom, lossless, in every encoding that can be written here."""
    halved = ycbcr(IMAGE)
    four = np.empty((IMAGE.shape[0], IMAGE.shape[1] // 2, 4), np.uint8)  # Y1 Y2 Cb Cr
    four[..., 0], four[..., 1] = halved[:, 0::2, 0], halved[:, 1::2, 0]
    four[..., 2:] = halved[:, 0::2, 1:]
    plain = changed_dicom(lambda dataset: None)

    def compressed(syntax: str) -> bytes:
        dataset = pydicom.dcmread(io.BytesIO(plain))
        if syntax == DeflatedExplicitVRLittleEndian:
            dataset.file_meta.TransferSyntaxUID = syntax
        else:
            dataset.compress(syntax, generate_instance_uid=False)
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        return file.getvalue()

    return {
        "rgb": plain,
        "planar": with_pixels(np.moveaxis(IMAGE, 2, 0).tobytes(), PlanarConfiguration=1),
        "ybr_full": with_pixels(ycbcr(IMAGE).tobytes(), PhotometricInterpretation="YBR_FULL"),
        "ybr_full_422": with_pixels(four.tobytes(), PhotometricInterpretation="YBR_FULL_422"),
        "16 bit": with_pixels((IMAGE.astype("<u2") * 257).tobytes(), BitsAllocated=16, BitsStored=16, HighBit=15),
        "12 bit": with_pixels(
            np.round(IMAGE * (4095 / 255)).astype("<u2").tobytes(), BitsAllocated=16, BitsStored=12, HighBit=11
        ),
        "rle": compressed(RLELossless),
        "jpeg 2000": compressed(JPEG2000Lossless),
        "deflated": compressed(DeflatedExplicitVRLittleEndian),
    }


@pytest.mark.parametrize(("name", "data"), encodings().items(), ids=encodings())
def test_every_encoding_gives_the_same_picture(name, data):
    image = read(data)
    # Colours halved in 4:2:2 differ at noise and edges, YBR by rounding, the others not at all.
    allowed = {"ybr_full": 0.8, "ybr_full_422": 4}.get(name, 0)
    assert np.abs(image.pixels.astype(int) - IMAGE).mean() <= allowed
    assert image.notes == (("from_16_bit",) if "bit" in name else ())


def test_grey_pictures_and_inverted_ones():
    grey = IMAGE[..., 1].copy()
    plain = read(with_pixels(grey.tobytes(), **mono(PhotometricInterpretation="MONOCHROME2")))
    inverted = read(with_pixels((255 - grey).tobytes(), **mono(PhotometricInterpretation="MONOCHROME1")))
    assert (plain.pixels == grey[..., None]).all()
    assert (inverted.pixels == plain.pixels).all()
    assert plain.notes == ("from_grey",)
    assert inverted.notes == ("from_grey", "from_monochrome1")


def test_palette_colours():
    indices = (np.arange(IMAGE.shape[0] * IMAGE.shape[1]) % 200).astype(np.uint8)
    tables = {
        c: np.roll(np.arange(256, dtype="<u2"), i * 40) * 257 for i, c in enumerate(("Red", "Green", "Blue"))
    }
    values: dict[str, object] = mono(PhotometricInterpretation="PALETTE COLOR")
    for tag, (colour, table) in enumerate(tables.items(), start=0x00281101):
        values[f"{colour}PaletteColorLookupTableDescriptor"] = DataElement(tag, "US", [256, 0, 16])
        values[f"{colour}PaletteColorLookupTableData"] = table.tobytes()
    image = read(with_pixels(indices.tobytes(), **values))
    expected = np.stack([table[indices] // 257 for table in tables.values()], axis=1).reshape(IMAGE.shape)
    assert (image.pixels == expected).all()
    assert "from_palette" in image.notes


def jpeg_frames() -> dict[str, tuple[bytes, str]]:
    """JPEG frames whose colours are meant as the data set says, in ways that libjpeg does and does not guess."""
    from PIL import Image

    def encoded(pixels: np.ndarray, **options: object) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0, **options)
        return file.getvalue()

    jfif = encoded(IMAGE)
    at = jfif.index(b"\xff\xe0")
    bare = jfif[:at] + jfif[at + 18 :]  # without the JFIF marker
    rgb = encoded(IMAGE, keep_rgb=True)
    return {
        "jfif": (jfif, "YBR_FULL_422"),
        "jfif that claims RGB": (jfif, "RGB"),
        "no marker": (bare, "YBR_FULL"),
        "rgb component names": (rgb, "RGB"),
        "rgb component names that claim YBR": (rgb, "YBR_FULL_422"),
    }


@pytest.mark.parametrize(("name", "case"), jpeg_frames().items(), ids=jpeg_frames())
def test_jpeg_colours_are_those_that_pydicom_finds(name, case):
    """The quick way through libjpeg-turbo must not show other colours than the library would."""
    data = with_jpeg(*case)
    with quiet():
        reference = pixel_array(pydicom.dcmread(io.BytesIO(data)), raw=False)
    pixels = read(data).pixels
    assert np.abs(pixels.astype(int) - reference).max() <= ROUNDING
    assert np.abs(pixels.astype(int) - IMAGE).mean() < 3


def test_unmarked_rgb_jpeg_is_not_taken_for_ycbcr():
    """Component names 1, 2, 3 and no marker: only the data set says that it is RGB."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(IMAGE).save(file, "JPEG", quality=95, subsampling=0, keep_rgb=True)
    frame = file.getvalue()
    at = frame.index(b"\xff\xee")
    length = int.from_bytes(frame[at + 2 : at + 4], "big")
    frame = bytearray(frame[:at] + frame[at + 2 + length :])
    for marker, first, step in ((b"\xff\xc0", 10, 3), (b"\xff\xda", 5, 2)):
        start = frame.index(marker) + first
        for i in range(3):
            frame[start + i * step] = i + 1
    assert np.abs(read(with_jpeg(bytes(frame), "RGB")).pixels.astype(int) - IMAGE).mean() < 3


@pytest.mark.parametrize(
    ("values", "spacing", "notes"),
    [
        ({"PixelSpacing": ["0.02", "0.03"]}, (0.02, 0.03), ()),
        ({"PixelSpacing": None, "ImagerPixelSpacing": ["0.1", "0.1"]}, (0.1, 0.1), ("spacing_imager",)),
        ({"PixelSpacing": None, "NominalScannedPixelSpacing": [0.2, 0.3]}, (0.2, 0.3), ("spacing_nominal",)),
        ({"PixelSpacing": ["0", "0.1"]}, None, ("spacing_unusable",)),
        ({"PixelSpacing": None}, None, ()),
    ],
)
def test_pixel_spacing_is_taken_where_it_is_stated(values, spacing, notes):
    image = read(with_pixels(IMAGE.tobytes(), **values))
    assert image.pixel_spacing_mm == spacing
    assert image.notes == notes


def test_quoted_and_malformed_values_are_tolerated():
    """As real exports have them: literal quote marks in UIDs, codes and numbers."""
    data = changed_dicom(lambda dataset: None)
    dataset = pydicom.dcmread(io.BytesIO(data))
    spacing = dataset["PixelSpacing"]
    length = sum(len(str(part)) for part in spacing.value) + 1
    data = data.replace(b"\\".join(str(part).encode() for part in spacing.value), b'"0.05"\\"0.05"'.ljust(length))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pydicom.config.settings, "_writing_validation_mode", pydicom.config.IGNORE)
        dataset = pydicom.dcmread(io.BytesIO(data))
        dataset.SOPClassUID = '"1.2.840.10008.5.1.4.1.1.77.1.4"'
        dataset.Modality = '"XC"'
        dataset.StudyInstanceUID = '"1.2.3"'
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
    image = read(file.getvalue())
    assert (image.pixels == IMAGE).all()
    assert image.pixel_spacing_mm == (0.05, 0.05)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"Modality": "MR"}, "not_a_skin_image"),
        ({"Modality": "US"}, "not_a_skin_image"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.2"}, "not_a_skin_image"),  # VL Microscopic
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, "not_a_skin_image"),  # MR
        ({"Rows": 4}, "too_small"),
        ({"Rows": 60_000, "Columns": 60_000}, "too_large"),
        ({"Rows": 121}, "truncated"),
        ({"Rows": None}, "corrupt"),
        ({"PhotometricInterpretation": "YBR_PARTIAL_422"}, "unsupported_format"),
    ],
)
def test_policy_and_size(values, expected):
    assert reason(with_pixels(IMAGE.tobytes(), **values)) == expected


def test_deep_grey_secondary_captures_are_radiology():
    deep = (IMAGE[..., 0].astype("<u2") * 16).tobytes()
    values = mono(PhotometricInterpretation="MONOCHROME2", BitsAllocated=16, BitsStored=12, HighBit=11)
    assert reason(with_pixels(deep, SOPClassUID=SECONDARY_CAPTURE, **values)) == "not_a_skin_image"
    assert read(with_pixels(deep, **values)).notes == ("from_16_bit", "from_grey")


FRAMES = [np.ascontiguousarray(picture) for picture in (IMAGE, IMAGE[::-1], IMAGE[:, ::-1])]


def compressed_frames(syntax: str) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(corpus.frames(*FRAMES)))
    dataset.compress(syntax, generate_instance_uid=False)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def ybr_422_frames() -> bytes:
    """Uncompressed YBR_FULL_422, whose frames have two bytes a pixel."""
    each = pydicom.dcmread(io.BytesIO(encodings()["ybr_full_422"])).PixelData
    other = np.frombuffer(each, np.uint8).reshape(IMAGE.shape[0], -1)[::-1].tobytes()
    return with_pixels(
        each + other + each,
        PhotometricInterpretation="YBR_FULL_422",
        NumberOfFrames=3,
        SOPClassUID=corpus.CAPTURED_FRAMES,
    )


@pytest.mark.parametrize("syntax", ["raw", RLELossless, JPEG2000Lossless])
def test_each_frame_of_several_is_read_by_itself(syntax):
    data = corpus.frames(*FRAMES) if syntax == "raw" else compressed_frames(syntax)
    for number, pixels in enumerate(FRAMES, 1):
        assert (read_image(data, max_pixels=LIMIT, frame=number).pixels == pixels).all()
    assert reason(data) == "multi_frame"
    for number in (0, 4):
        with pytest.raises(BadInput, match="does not hold the requested frame"):
            read_image(data, max_pixels=LIMIT, frame=number)


def test_frames_of_halved_colours_and_of_jpeg_are_told_apart():
    data = ybr_422_frames()
    mirrored = read_image(data, max_pixels=LIMIT, frame=2).pixels
    assert (mirrored == read_image(data, max_pixels=LIMIT, frame=1).pixels[::-1]).all()
    jpegs = [corpus.picture("JPEG", pixels, quality=95) for pixels in FRAMES]

    def change(dataset: Dataset) -> None:
        dataset.SOPClassUID, dataset.NumberOfFrames = corpus.CAPTURED_FRAMES, len(jpegs)
        dataset.PixelData = encapsulate(jpegs, has_bot=False)

    data = changed_dicom(change, jpeg=True)
    for number, pixels in enumerate(FRAMES, 1):
        image = read_image(data, max_pixels=LIMIT, frame=number)
        assert np.abs(image.pixels.astype(int) - pixels).mean() < 6


def test_a_frame_that_was_cut_off_is_refused_and_those_before_it_are_not():
    data = corpus.frames(*FRAMES[:2], declared=3)
    assert (read_image(data, max_pixels=LIMIT, frame=2).pixels == FRAMES[1]).all()
    with pytest.raises(BadInput) as caught:
        read_image(data, max_pixels=LIMIT, frame=3)
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("report.dcm", "structured report"),
        ("key objects.dcm", "key object selection"),
        ("presentation.dcm", "presentation state"),
        ("letter.dcm", "encapsulated document"),
        ("ultrasound.dcm", "SOP class"),
        ("brain.dcm", "body part"),
    ],
)
def test_what_is_no_photograph_of_skin_says_by_what(name, says):
    with pytest.raises(BadInput, match=says):
        read(DICOMS[name][0])


def test_a_segmentation_has_pixels_but_is_no_photograph():
    values = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG"}
    assert reason(with_pixels(IMAGE.tobytes(), **values)) == "not_a_skin_image"


def test_a_chest_is_skin_too():
    assert (read(with_pixels(IMAGE.tobytes(), BodyPartExamined="CHEST")).pixels == IMAGE).all()


def test_dermoscopic_photography_is_taken():
    data = with_pixels(IMAGE.tobytes(), SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.7", Modality="DMS")
    assert (read(data).pixels == IMAGE).all()


def test_a_frame_of_another_size_than_the_header_says_is_refused():
    """A small header must not hide a frame that fills the memory."""
    frame = corpus.picture("JPEG", corpus.OTHER.image)
    assert reason(with_jpeg(frame, "YBR_FULL_422")) == "corrupt"


def test_a_frame_that_is_cut_off_is_refused():
    frame = corpus.picture("JPEG")
    assert reason(with_jpeg(frame[: len(frame) // 2], "YBR_FULL_422")) == "truncated"


def test_a_deflated_bomb_is_refused(monkeypatch):
    monkeypatch.setattr("dermbatch.images.dicom.reading._LARGEST_DATA_SET", 10_000)
    assert reason(encodings()["deflated"]) == "too_large"


def test_messages_do_not_quote_the_header(caplog):
    secret = "Doe^Jane"

    def change(dataset: Dataset) -> None:
        dataset.PatientName = secret
        dataset.Modality = "CT"

    with caplog.at_level(logging.DEBUG), pytest.raises(BadInput) as caught:
        read(changed_dicom(change))
    assert "CT" not in str(caught.value)
    assert secret not in str(caught.value) + caplog.text


@pytest.mark.parametrize("jpeg", [True, False])
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6), keep=st.floats(0, 1)
)
@settings(max_examples=60, deadline=3000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_read_or_refused(jpeg, changes, keep):
    data = bytearray(DICOMS["photo.dcm" if jpeg else "capture.dcm"][0])
    for where, value in changes:
        data[int(where**3 * (len(data) - 1))] = value
    if keep < 0.4:
        del data[int(keep * 2.5 * len(data)) :]
    image = read_or_refuse(bytes(data))
    assert image is None or (image.pixels.ndim == 3 and image.pixels.dtype == np.uint8)


def test_the_samples_writer_makes_what_is_read_here():
    image = read(dicom(corpus.OTHER, identity=1))
    assert image.pixel_spacing_mm == pytest.approx(corpus.OTHER.pixel_spacing_mm, rel=1e-4)
    assert np.abs(image.pixels.astype(int) - corpus.OTHER.image).mean() < 6
    dataset = pydicom.dcmread(io.BytesIO(dicom(corpus.OTHER, identity=1)))
    assert dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
