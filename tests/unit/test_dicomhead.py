"""The beginning of DICOM files: frames counted, DICOMDIRs known and read, whatever is in them."""

from __future__ import annotations

import io
import tracemalloc

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dermbatch.errors import BadInput
from dermbatch.images.dicomhead import HEAD_BYTES, frames, is_directory, referenced_files
from dermbatch.phantoms.samples import dicom
from tests import corpus
from tests.drawn import counted

PICTURE = corpus.DRAWN.image
TWO_FRAMES = corpus.frames(PICTURE, PICTURE)
DIRECTORY = corpus.dicomdir(("A", "B"), ("C",), ("D", "E", "F"))


def bare(data: bytes) -> bytes:
    """Without preamble and meta header."""
    plain = Dataset()
    plain.update(pydicom.dcmread(io.BytesIO(data)))
    file = io.BytesIO()
    plain.save_as(file, implicit_vr=True, little_endian=True)
    return file.getvalue()


def test_frames_are_counted_of_photographs_only():
    several = corpus.frames(PICTURE, PICTURE, PICTURE)
    assert counted(several) == 3
    assert counted(bare(several)) == 3
    assert counted(dicom(corpus.DRAWN, identity=1)) == 1
    assert counted(corpus.frames(PICTURE, PICTURE, sop_class=corpus.ULTRASOUND_FRAMES)) == 1
    assert counted(corpus.picture("PNG")) == 1
    assert counted(b"") == 1


def test_a_quoted_number_of_frames_counts():
    data = corpus.frames(PICTURE, declared=100)
    assert counted(data.replace(b"\x28\x00\x08\x00IS\x04\x00100 ", b'\x28\x00\x08\x00IS\x04\x00"2" ')) == 2


def test_a_film_is_refused():
    assert counted(corpus.frames(PICTURE, declared=1000)) == 1000
    with pytest.raises(BadInput, match="1,001 frames") as caught:
        counted(corpus.frames(PICTURE, declared=1001))
    assert caught.value.reason == "multi_frame"


def test_a_long_header_is_read_on():
    """A private element before the pixels that is longer than what is read first."""

    def change(dataset: Dataset) -> None:
        dataset.SOPClassUID, dataset.NumberOfFrames = corpus.CAPTURED_FRAMES, 2
        dataset.add_new(0x00090010, "LO", "TEST")
        dataset.add_new(0x00091001, "OB", bytes(2 * HEAD_BYTES))
        dataset.PixelData *= 2
        dataset["PixelData"].VR = "OB"

    data = corpus.changed_dicom(change)
    assert frames(data[:HEAD_BYTES]) is None
    assert counted(data) == 2


def test_a_deflated_file_is_not_inflated_for_its_head():
    dataset = pydicom.dcmread(io.BytesIO(corpus.changed_dicom(lambda _: None)))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.add_new(0x00091001, "OB", bytes(64 << 20))
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    tracemalloc.start()
    assert counted(file.getvalue()) == 1
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_dicomdir_is_known_by_its_class_and_names_its_files():
    data = corpus.dicomdir(("IMAGES", "IM1"), "IM2", ("..", "OUT"))
    assert is_directory(data[:512])
    assert not is_directory(dicom(corpus.DRAWN, identity=1)[:512])
    assert list(referenced_files(data)) == [("IMAGES", "IM1"), ("IM2",), ("..", "OUT")]


@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6), keep=st.floats(0, 1)
)
@settings(max_examples=150, deadline=3000)
def test_damaged_heads_are_counted_or_refused(changes, keep):
    data = bytearray(TWO_FRAMES[: int(1 + keep * 4000)])
    for where, value in changes:
        data[int(where * (len(data) - 1))] = value
    try:
        count = counted(bytes(data))
    except BadInput:
        return
    assert 1 <= count <= 1000


@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6), keep=st.floats(0, 1)
)
@settings(max_examples=150, deadline=3000)
def test_damaged_directories_are_read_or_refused(changes, keep):
    data = bytearray(DIRECTORY)
    for where, value in changes:
        data[int(where * (len(data) - 1))] = value
    try:
        found = list(referenced_files(bytes(data[: int(1 + keep * 2 * len(data))])))
    except BadInput as refused:
        found = [(refused.reason,)]
    assert all(parts and all(parts) for parts in found)
