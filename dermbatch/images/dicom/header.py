"""A header while it is being reconciled with its pixel data, and how messages name its elements."""

from __future__ import annotations

from typing import Any

from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID

from dermbatch.errors import BadInput
from dermbatch.images.dicompolicy import number, text

SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3, "YBR_FULL_422": 3}
"""Samples a pixel by Photometric Interpretation."""
_NUMBERS = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "NumberOfFrames",
)


def element(keyword: str) -> str:
    """An element as messages name it, such as ``Bits Stored (0028,0101)``."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    return f"{dictionary_description(tag)} ({tag.group:04X},{tag.element:04X})"


def missing(keyword: str) -> BadInput:
    """The refusal of an image that lacks an element."""
    return BadInput(
        f"{element(keyword)} is missing, and the pixel data do not prove it; export the image again with it",
        reason="corrupt",
    )


def refuted(keyword: str) -> BadInput:
    """The refusal of an image whose pixel data show that an element is wrong, but not what is right."""
    return BadInput(
        f"{element(keyword)} and the pixel data contradict each other; export the image again", reason="corrupt"
    )


def _numbers(dataset: Dataset) -> None:
    """Store the module's numbers as numbers, however exporters wrote them; anything else counts as missing."""
    for keyword in _NUMBERS:
        if keyword in dataset:
            value = number(dataset, keyword, -1)
            del dataset[keyword]
            if value >= 0:
                setattr(dataset, keyword, value)


class Header:
    """The Image Pixel module of a data set (PS3.3, C.7.6.3) while it is settled.

    Args:
        dataset: With Pixel Data and a transfer syntax; changed in place.

    Attributes:
        dataset: The same.
        data: Its Pixel Data.
        photometric: Photometric Interpretation in capitals; empty if there is none.
        notes: What was corrected.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        _numbers(dataset)
        self.data = bytes(dataset.PixelData)
        self.photometric = text(dataset, "PhotometricInterpretation").upper()
        self.notes: list[str] = []
        if self.photometric:
            dataset.PhotometricInterpretation = self.photometric

    @property
    def syntax(self) -> UID:
        """The transfer syntax."""
        return UID(self.dataset.file_meta.TransferSyntaxUID)

    def has(self, keyword: str) -> bool:
        """Whether a number is there."""
        return number(self.dataset, keyword, -1) >= 0

    def number(self, keyword: str, default: int) -> int:
        """A number; the default where it is missing."""
        return number(self.dataset, keyword, default)

    def pixels(self) -> int:
        """Pixels of a frame; 0 where their number is missing."""
        return self.number("Rows", 0) * self.number("Columns", 0)

    def correct(self, keyword: str, value: Any, *, noted: bool = True) -> None:
        """Set an element, whatever it was before; leave a note if people should know."""
        if keyword == "TransferSyntaxUID":
            self.dataset.file_meta.TransferSyntaxUID = value
        else:
            setattr(self.dataset, keyword, value)
        if keyword == "PhotometricInterpretation":
            self.photometric = value
        note = f"corrected_{dictionary_description(tag_for_keyword(keyword) or 0).lower().replace(' ', '_')}"
        if noted and note not in self.notes:
            self.notes.append(note)

    def set_pixels(self, data: bytes) -> None:
        """Replace the pixel data by encapsulated ones."""
        self.data = self.dataset.PixelData = data
        self.dataset["PixelData"].is_undefined_length = True

    def frames(self) -> int:
        """Number of Frames as stated; a number that data of this length cannot hold is ignored."""
        declared = self.number("NumberOfFrames", 1)
        if not 1 <= declared <= len(self.data):
            declared = 1
            self.correct("NumberOfFrames", 1)
        return declared

    def fill_bits(self) -> None:
        """Fill in Bits Stored and High Bit if they are missing and follow from the rest."""
        allocated, high = self.number("BitsAllocated", 8), self.number("HighBit", -1)
        if not 0 < self.number("BitsStored", 0) <= allocated:
            if allocated > 8 and not 8 <= high < allocated:
                raise missing("BitsStored")
            self.correct("BitsStored", high + 1 if 0 < high < allocated and allocated > 8 else allocated)
        stored = self.number("BitsStored", 8)
        if not stored - 1 <= high < allocated:
            self.correct("HighBit", stored - 1, noted=high >= 0)

    def sign(self, *, unsigned: bool) -> None:
        """Pixel Representation: 0 if it is missing, or if the samples are known to have no sign."""
        declared = self.number("PixelRepresentation", -1)
        if declared not in (0, 1) or (declared and unsigned):
            self.correct("PixelRepresentation", 0, noted=declared > 0)
