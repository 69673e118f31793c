"""Masks come back pixel by pixel from files: holes, islands, the border, one pixel; what is none is refused."""

import json
from contextlib import nullcontext
from io import BytesIO

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from dermbatch.images import png
from dermbatch.review.files import coco, compressed, decompressed, mask_of
from dermbatch.review.masks import runs

HEIGHT, WIDTH = 6, 7


def with_hole():
    """A square with a hole, two corners, and an island of one pixel at the border."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[1:5, 2:6] = 255
    mask[2, 3] = 0
    mask[5, 6] = mask[0, 0] = 255
    return mask


def segmentation(mask, **changes):
    """A Segmentation as other programs write it: a bit a pixel, the first in the lowest."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = changes.pop("syntax", ExplicitVRLittleEndian)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SegmentationStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    made.SegmentationType, made.NumberOfFrames = "BINARY", 1
    made.SegmentSequence = [Dataset()]
    made.Rows, made.Columns = mask.shape
    made.BitsAllocated = made.BitsStored = made.SamplesPerPixel = 1
    made.HighBit = made.PixelRepresentation = 0
    made.PhotometricInterpretation = "MONOCHROME2"
    packed = np.packbits(mask.ravel() > 0, bitorder="little").tobytes()
    made.PixelData = packed + b"\0" * (len(packed) % 2)
    for name, value in changes.items():
        setattr(made, name, value)
    file = BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


OVERFLOWING = compressed([2**62, 2**62, 2**62, 2**62 + 42])
"""Its runs come to 42, modulo 2 ** 64."""


def png_of(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def as_png(mask):
    return png.encode(mask)


def as_ones(mask):
    return cv2.imencode(".png", mask // 255)[1].tobytes()


def as_colours(mask):
    return cv2.imencode(".png", cv2.cvtColor(mask, cv2.COLOR_GRAY2BGRA))[1].tobytes()


def as_two_bytes(mask):
    return png_of((mask // 255).astype(np.uint16) * 256)


def as_glass(mask):
    """Transparent where there is no lesion, as drawing programs have it."""
    return png_of(np.dstack([mask] * 4))


def as_coco(mask):
    return json.dumps(coco(mask)).encode()


def as_runs(mask):
    annotation = {"segmentation": {"size": list(mask.shape), "counts": runs(mask)}, "id": 1}
    return json.dumps({"annotations": [annotation]}).encode()


WAYS = [as_png, as_ones, as_colours, as_two_bytes, as_glass, as_coco, as_runs, segmentation]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@settings(max_examples=40)
@given(mask=arrays(np.uint8, (HEIGHT, WIDTH), elements=st.sampled_from([0, 255])))
def test_any_mask_comes_back(way, mask):
    assert np.array_equal(mask_of(way(mask), HEIGHT, WIDTH), mask)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_holes_islands_border_and_one_pixel_come_back_at_the_size_of_photographs(way):
    mask = np.zeros((2000, 3000), np.uint8)
    cv2.circle(mask, (1500, 1000), 600, 255, -1)
    cv2.circle(mask, (1600, 900), 200, 0, -1)
    mask[900, 1600] = mask[0, 0] = mask[-1, -1] = 255
    mask[:, 0] = 255
    assert np.array_equal(mask_of(way(mask), 2000, 3000), mask)


def test_strings_are_those_of_cocos_own_program():
    """Made with pycocotools 2.0."""
    assert compressed(runs(with_hole())) == "01<3FMO112004M"
    assert decompressed("01<3FMO112004M") == runs(with_hole())
    assert decompressed(compressed([12_000_000])) == [12_000_000]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "neither a PNG"),
        (b"MZ", "neither a PNG"),
        (png.encode(np.zeros((7, 6), np.uint8)), "6 x 7 pixels"),
        (png.encode(with_hole())[:40], "not a readable PNG"),
        (png.encode(np.arange(42, dtype=np.uint8).reshape(6, 7)), "more than two values"),
        (png.encode(np.dstack([with_hole(), with_hole() // 255, with_hole()])), "colours"),
        (png_of(np.dstack([np.full((6, 7, 3), 255, np.uint8), with_hole()])), "opacity"),
        (png_of(np.dstack([np.zeros((6, 7, 3), np.uint8), with_hole()])), "opacity"),
        (b'{"size": [6, 7]}', "no run lengths"),
        (b'{"size": [6, 7], "counts": "%s"}' % OVERFLOWING.encode(), "no mask of 6 x 7"),
        (b'{"size": [6, 7], "counts": "%s"}' % (b"o" * 12 + b"?"), "no mask of 6 x 7"),
        (b'{"size": [7, 6], "counts": [42]}', "of \\[7, 6\\] pixels"),
        (b'{"size": [6, 7], "counts": [41]}', "no mask of 6 x 7"),
        (b'{"size": [6, 7], "counts": "~~"}', "not run lengths"),
        (b'{"size": [6, 7], "counts": "o"}', "cut off"),
        (b'{"size": [6, 7], "counts": [true]}', "not run lengths"),
        (b'{"annotations": []}', "no annotation or several"),
        (b"{" * 100_000, "not JSON"),
        (b"[1, 2]", "no run lengths"),
        (segmentation(with_hole().T), "6 x 7 pixels"),
        (segmentation(with_hole(), SegmentationType="FRACTIONAL"), "not a binary"),
        (segmentation(with_hole(), NumberOfFrames=2), "several"),
        (segmentation(with_hole(), SegmentSequence=[Dataset(), Dataset()]), "several"),
        (segmentation(with_hole(), PixelData=b"\0\0"), "cut off"),
        (segmentation(with_hole())[:200], "DICOM file"),
    ],
)
def test_what_is_no_mask_of_the_picture_is_refused(body, why):
    with pytest.raises(ValueError, match=why):
        mask_of(body, HEIGHT, WIDTH)


def of_image(uid, frame=None):
    """What a Segmentation says of its source, with and without functional groups."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = SegmentationStorage, uid
    if frame is not None:
        item.ReferencedFrameNumber = frame
    derivation = Dataset()
    derivation.SourceImageSequence = [item]
    return [derivation]


@pytest.mark.parametrize(
    ("named", "frame", "complaint"),
    [
        ({}, None, None),  # names none, so nothing can be told
        ({"DerivationImageSequence": of_image("1.2.9")}, None, None),
        ({"DerivationImageSequence": of_image("1.2.9", [2, 3])}, 3, None),
        ({"DerivationImageSequence": of_image("1.2.8")}, None, "of another image"),
        ({"DerivationImageSequence": of_image("1.2.9", 2)}, 3, "of another frame than 3"),
    ],
)
def test_a_segmentation_of_another_image_of_the_same_size_is_refused(named, frame, complaint):
    body = segmentation(with_hole(), **named)
    assert mask_of(body, HEIGHT, WIDTH).any(), "of an image that is no DICOM"
    with nullcontext() if complaint is None else pytest.raises(ValueError, match=complaint):
        assert np.array_equal(mask_of(body, HEIGHT, WIDTH, "1.2.9", frame), with_hole())


def test_a_compressed_segmentation_is_refused():
    body = segmentation(with_hole()).replace(ExplicitVRLittleEndian.encode() + b"\0", b"1.2.840.10008.1.2.5\0")
    with pytest.raises(ValueError, match="compressed"):
        mask_of(body, HEIGHT, WIDTH)
