"""A DICOM image's header brought into agreement with its pixel data: the bytes decide.

Exporters leave out elements of the Image Pixel module (PS3.3, C.7.6.3), or state what the pixel data refute.
Where the bytes prove what is right, the data set is corrected and a note says so; else it is refused, and the
reason names the element. ``docs/inputs.md`` has the table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
    UncompressedTransferSyntaxes,
)

from dermbatch.errors import BadInput
from dermbatch.images.dicom.fragments import ITEM, Place, begins, family, fragments, joined, picture_of, pictures
from dermbatch.images.dicompolicy import number, text
from dermbatch.images.jpegheader import JpegHeader, read_jpeg2000_header, read_jpeg_header

_DCT = (JPEGBaseline8Bit, JPEGExtended12Bit)
_BY_FRAME_HEADER = {
    0xC3: (JPEGLossless, JPEGLosslessSV1),
    0xF7: (JPEGLSNearLossless, JPEGLSLossless),
}
"""Transfer syntaxes by the marker of the frame header (ITU-T T.81, B.1.1.3, T.87, C.1.1); others are DCT-based."""
_CODED = {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes, RLELossless}
_TAKEN = {
    *UncompressedTransferSyntaxes,
    *_CODED,
    *(UID(f"1.2.840.10008.1.2.4.{number}") for number in range(52, 67)),
}
"""Those that are decoded, and retired ones of JPEG, whose streams say themselves what they are."""
_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3, "YBR_FULL_422": 3}
_PARTIAL = frozenset({"YBR_PARTIAL_420", "YBR_PARTIAL_422"})
_HEAD = 1 << 20
"""Bytes of a compressed picture in which its header is looked for."""


def element(keyword: str) -> str:
    """An element as messages name it, such as ``Bits Stored (0028,0101)``."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    return f"{dictionary_description(tag)} ({tag.group:04X},{tag.element:04X})"


def _missing(keyword: str) -> BadInput:
    return BadInput(
        f"{element(keyword)} is missing, and the pixel data do not prove it; export the image again with it",
        reason="corrupt",
    )


def _refuted(keyword: str) -> BadInput:
    return BadInput(
        f"{element(keyword)} and the pixel data contradict each other; export the image again", reason="corrupt"
    )


def settle(dataset: Dataset) -> list[str]:
    """Correct the Image Pixel module of a data set where its pixel data prove it wrong or incomplete.

    Settled once, a data set stays as it is.

    Args:
        dataset: With Pixel Data and a transfer syntax; changed in place.

    Returns:
        Notes: ``corrected_`` and the element's name.

    Raises:
        BadInput: ``corrupt``, ``truncated``, ``unsupported_format``; the message names the element.
    """
    if dataset.file_meta.TransferSyntaxUID not in _TAKEN:
        raise BadInput(
            f"{element('TransferSyntaxUID')} is none that is known here; convert it to JPEG baseline or "
            "Explicit VR Little Endian",
            reason="unsupported_transfer_syntax",
        )
    settled = _Settling(dataset)
    if settled.is_coded():
        settled.coded()
    else:
        settled.native()
    return settled.notes


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


def _numbers(dataset: Dataset) -> None:
    """Write the module's numbers as numbers, whatever exporters made of them; what is none is missing."""
    for keyword in _NUMBERS:
        if keyword in dataset:
            said = number(dataset, keyword, -1)
            del dataset[keyword]
            if said >= 0:
                setattr(dataset, keyword, said)


class _Settling:
    """One data set while it is settled."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        _numbers(dataset)
        self.data = bytes(dataset.PixelData)
        self.photometric = text(dataset, "PhotometricInterpretation").upper()
        self.notes: list[str] = []
        if self.photometric:
            dataset.PhotometricInterpretation = self.photometric

    def has(self, keyword: str) -> bool:
        return number(self.dataset, keyword, -1) >= 0

    def correct(self, keyword: str, value: Any, *, noted: bool = True) -> None:
        """Set an element; what it was before is of no account."""
        if keyword == "TransferSyntaxUID":
            self.dataset.file_meta.TransferSyntaxUID = value
        else:
            setattr(self.dataset, keyword, value)
        if keyword == "PhotometricInterpretation":
            self.photometric = value
        note = f"corrected_{dictionary_description(tag_for_keyword(keyword) or 0).lower().replace(' ', '_')}"
        if noted and note not in self.notes:
            self.notes.append(note)

    # Compressed pixel data (PS3.5, A.4)

    def is_coded(self) -> bool:
        """Whether Pixel Data hold compressed pictures, whatever the transfer syntax says."""
        syntax = self.dataset.file_meta.TransferSyntaxUID
        if self.data[:4] == ITEM:
            first = fragments(self.data[: 1 << 16])[0][0]
            if (
                family(picture_of(self.data[first : first + 512])) is not None
            ):  # the offset table's item is left out
                self._set_pixels(ITEM + bytes(4) + self.data)
            return True
        if family(self.data[:512]) is not None and (syntax.is_encapsulated or len(self.data) < self._least()):
            self._set_pixels(encapsulate([self.data]))  # one stream without the items around it
            return True
        if syntax.is_encapsulated:
            self.correct("TransferSyntaxUID", ExplicitVRLittleEndian)
        return False

    def _set_pixels(self, data: bytes) -> None:
        self.data = self.dataset.PixelData = data
        self.dataset["PixelData"].is_undefined_length = True

    def _least(self) -> int:
        return number(self.dataset, "Rows", 0) * number(self.dataset, "Columns", 0)

    def coded(self) -> None:
        places = fragments(self.data)[1:]
        if not places:
            raise BadInput(
                f"{element('PixelData')} holds no compressed picture; export the image again", reason="corrupt"
            )
        start = places[0][0]
        head = picture_of(joined(self.data, places[:8])[:_HEAD])
        kind = family(head)
        is_rle = self.dataset.file_meta.TransferSyntaxUID == RLELossless
        if kind is None and not is_rle and all(begins(self.data[a : a + 512]) for a, _ in places):
            self.correct("TransferSyntaxUID", RLELossless)
        elif kind is None and not is_rle:
            if (
                not self.dataset.file_meta.TransferSyntaxUID.is_encapsulated
                and len(self.data) >= self._least() > 0
            ):
                return self.native()
            raise BadInput(
                f"what {element('PixelData')} holds at byte {start} begins as no JPEG, JPEG-LS or JPEG 2000 "
                "picture; export the image again",
                reason="corrupt",
            )
        self._count(places)
        if kind == "jpeg" and (header := read_jpeg_header(head)) is not None:
            self._jpeg(header)
        elif kind == "jpeg2000":
            self._jpeg2000(head)
        elif kind is None:
            self._rle()
        return None

    def _count(self, places: list[Place]) -> None:
        """Number of Frames: where it is missing or 1, as many as there are pictures."""
        begun, said = len(pictures(self.data, places)), self._frames()
        if begun > 1 and said <= 1:
            self.correct("NumberOfFrames", begun)
        elif begun > said > 1 or said > len(places):
            raise _refuted("NumberOfFrames")

    def _frames(self) -> int:
        """Number of Frames as stated; a number that no data of this length could hold says nothing."""
        said = number(self.dataset, "NumberOfFrames", 1)
        if not 1 <= said <= len(self.data):
            said = 1
            self.correct("NumberOfFrames", 1)
        return said

    def _jpeg(self, header: JpegHeader) -> None:
        syntax = self.dataset.file_meta.TransferSyntaxUID
        fitting = _BY_FRAME_HEADER.get(header.marker, _DCT)
        if syntax not in fitting:
            fit = fitting[header.precision > 8] if fitting is _DCT else fitting[0]
            self.correct("TransferSyntaxUID", fit)
        self._size(header.height, header.width)
        self._precision(header.precision)
        self._components(len(header.ids))
        if len(header.ids) == 3:
            self._jpeg_colours(header)

    def _jpeg_colours(self, header: JpegHeader) -> None:
        """RGB or YCbCr, by what proves it: component names, markers, sub-sampling; else as the header says."""
        if header.marker in _BY_FRAME_HEADER:  # coded without loss: nothing in the stream says
            if self.photometric in _PARTIAL:
                raise _refuted("PhotometricInterpretation")
            if not self.photometric:
                raise _missing("PhotometricInterpretation")
            return
        proven = header.is_ycbcr
        if proven is None:
            if not self.photometric:
                raise _missing("PhotometricInterpretation")
            proven = self.photometric.startswith("YBR")
        known = self.photometric in ("RGB", "YBR_FULL", "YBR_FULL_422")
        if not known or proven != self.photometric.startswith("YBR"):
            self.correct("PhotometricInterpretation", "YBR_FULL_422" if proven else "RGB")

    def _jpeg2000(self, head: bytes) -> None:
        syntax = self.dataset.file_meta.TransferSyntaxUID
        if syntax not in JPEG2000TransferSyntaxes:
            self.correct("TransferSyntaxUID", JPEG2000)
        header = read_jpeg2000_header(head)
        if header is None:
            return
        self._size(header.height, header.width)
        self._precision(header.precision)
        self._components(header.components)
        if header.components == 3 and header.transformed and self.photometric not in ("YBR_ICT", "YBR_RCT", "RGB"):
            self.correct("PhotometricInterpretation", "RGB")
        if header.components == 3 and not self.photometric:
            raise _missing("PhotometricInterpretation")

    def _rle(self) -> None:
        if not self.has("SamplesPerPixel") and self.photometric in _SAMPLES:
            self.correct("SamplesPerPixel", _SAMPLES[self.photometric])
        if not self.has("BitsAllocated"):
            raise _missing("BitsAllocated")
        self._fill_bits()
        if number(self.dataset, "SamplesPerPixel", 1) == 3 and not self.has("PlanarConfiguration"):
            self.correct("PlanarConfiguration", 0, noted=False)
        if not self.photometric:
            raise _missing("PhotometricInterpretation")

    def _size(self, height: int, width: int) -> None:
        for keyword, right in (("Rows", height), ("Columns", width)):
            if not self.has(keyword):
                self.correct(keyword, right)
            elif number(self.dataset, keyword, 0) != right:
                raise BadInput(
                    f"{element(keyword)} and the compressed picture disagree on its size; export the image again",
                    reason="corrupt",
                )

    def _precision(self, precision: int) -> None:
        allocated = 8 if precision <= 8 else 16
        widened = allocated == 8 and self.has("BitsAllocated") and self._is_jpeg2000()  # by its decoder
        if number(self.dataset, "BitsAllocated", 0) != allocated and not widened:
            self.correct("BitsAllocated", allocated, noted=self.has("BitsAllocated"))
        said = number(self.dataset, "BitsStored", 0)
        if not 0 < said <= precision:
            self.correct("BitsStored", precision, noted=said > 0)
        stored = number(self.dataset, "BitsStored", 0)
        if number(self.dataset, "HighBit", -1) != stored - 1:
            self.correct("HighBit", stored - 1, noted=False)
        self._sign()

    def _is_jpeg2000(self) -> bool:
        syntax = self.dataset.file_meta.TransferSyntaxUID
        return syntax in JPEG2000TransferSyntaxes

    def _components(self, components: int) -> None:
        if components not in (1, 3):
            raise BadInput(
                f"the compressed picture has {components} components; {element('SamplesPerPixel')} may be 1 or 3: "
                "convert the image to RGB",
                reason="unsupported_format",
            )
        said = number(self.dataset, "SamplesPerPixel", 0)
        if said != components:
            self.correct("SamplesPerPixel", components, noted=said > 0)
        if components == 3 and number(self.dataset, "PlanarConfiguration", 0):
            self.correct("PlanarConfiguration", 0)  # it says nothing of compressed data (PS3.5, 8.2)
        if components == 3:
            self.correct("PlanarConfiguration", 0, noted=False)
        if components == 1 and _SAMPLES.get(self.photometric) != 1:
            self.correct("PhotometricInterpretation", "MONOCHROME2")
        elif components == 3 and _SAMPLES.get(self.photometric) == 1:
            raise _refuted("PhotometricInterpretation")

    # Uncompressed pixel data (PS3.5, 8.1)

    def native(self) -> None:
        if not self.photometric:
            palette = "RedPaletteColorLookupTableDescriptor" in self.dataset
            if not palette or number(self.dataset, "SamplesPerPixel", 1) != 1:
                raise _missing("PhotometricInterpretation")
            self.correct("PhotometricInterpretation", "PALETTE COLOR")
        if self.photometric not in _SAMPLES:
            raise BadInput(
                f"{element('PhotometricInterpretation')} is not one that uncompressed pictures are taken in; "
                "convert the image to RGB",
                reason="unsupported_format",
            )
        for keyword in ("Rows", "Columns"):
            if number(self.dataset, keyword, 0) <= 0:
                raise _missing(keyword)
        if _SAMPLES[self.photometric] == 1 and number(self.dataset, "SamplesPerPixel", 1) == 3:
            self._not_of_one_sample()
        self._lengths()
        self._fill_bits()
        if number(self.dataset, "SamplesPerPixel", 1) == 3 and self.photometric != "YBR_FULL_422":
            self._planes()

    def _not_of_one_sample(self) -> None:
        """Refuse three samples a pixel under a Photometric Interpretation of one, where the length has them."""
        pixels = number(self.dataset, "Rows", 0) * number(self.dataset, "Columns", 0) * self._frames()
        if self._fits(3 * pixels) or self._fits(6 * pixels):
            raise _refuted("PhotometricInterpretation")

    def _lengths(self) -> None:
        """Samples, bits allocated, sub-sampling and frames, as far as the number of bytes proves them."""
        pixels = number(self.dataset, "Rows", 0) * number(self.dataset, "Columns", 0)
        samples, allocated = _SAMPLES[self.photometric], number(self.dataset, "BitsAllocated", 0)
        if allocated == 24 and samples == 3:
            allocated = 8  # a pixel's bits, where those of a sample are meant
            self._sampled(allocated)
        if allocated and allocated not in (1, 8, 16, 32):
            raise BadInput(
                f"{element('BitsAllocated')} is none that is taken; save the image with 8 or 16 bits a sample",
                reason="unsupported_format",
            )
        self._samples(samples)
        frames = self._frames()
        halved = self.photometric == "YBR_FULL_422"
        if self._fits(pixels * frames * allocated * (2 if halved else samples) // 8):
            return
        self._by_length(pixels, samples, 0 if allocated == 1 else allocated, frames)

    def _by_length(self, pixels: int, samples: int, allocated: int, frames: int) -> None:
        """What is right where the length is not as the header says; left as it is where nothing proves it."""
        deep = number(self.dataset, "BitsStored", 8) > 8
        for width in (16, 8) if deep else (8, 16):
            if not self._fits(pixels * frames * samples * width // 8):
                continue
            if allocated and allocated != width and number(self.dataset, "BitsStored", 8) > width:
                break
            if allocated != width:
                self._sampled(width)
            if self.photometric == "YBR_FULL_422":
                self.correct("PhotometricInterpretation", "YBR_FULL")
            return
        if self.photometric == "YBR_FULL" and self._fits(pixels * frames * 2) and allocated in (0, 8):
            self.correct("PhotometricInterpretation", "YBR_FULL_422")
            self._sampled(8)
            return
        if not allocated:
            raise _refuted("BitsAllocated") if self.has("BitsAllocated") else _missing("BitsAllocated")
        each = pixels * allocated * (2 if self.photometric == "YBR_FULL_422" else samples) // 8
        there = len(self.data) // each
        if frames == 1 and there > 1 and self._fits(each * there):
            self.correct("NumberOfFrames", there)
        elif len(self.data) > each * frames:
            self.notes.append("padding_dropped")
            if len(self.data) >= each * (frames + 1):
                raise _refuted("NumberOfFrames")

    def _fits(self, expected: int) -> bool:
        return expected > 0 and len(self.data) in (expected, expected + expected % 2)

    def _sampled(self, width: int) -> None:
        self.correct("BitsAllocated", width)
        if number(self.dataset, "BitsStored", 0) > width:
            self.correct("BitsStored", width, noted=False)
            self.correct("HighBit", width - 1, noted=False)

    def _samples(self, samples: int) -> None:
        if number(self.dataset, "SamplesPerPixel", 0) != samples:
            self.correct("SamplesPerPixel", samples)

    def _fill_bits(self) -> None:
        """Bits Stored, High Bit and Pixel Representation where they are missing, as far as the rest says them."""
        allocated, high = number(self.dataset, "BitsAllocated", 8), number(self.dataset, "HighBit", -1)
        if not 0 < number(self.dataset, "BitsStored", 0) <= allocated:
            if allocated > 8 and not 8 <= high < allocated:
                raise _missing("BitsStored")
            self.correct("BitsStored", high + 1 if 0 < high < allocated and allocated > 8 else allocated)
        stored = number(self.dataset, "BitsStored", 8)
        if not stored - 1 <= high < allocated:
            self.correct("HighBit", stored - 1, noted=high >= 0)
        self._sign()

    def _sign(self) -> None:
        """Pixel Representation: colours have no sign (PS3.3, C.8.12.1.1), nor have samples of a JPEG."""
        said = number(self.dataset, "PixelRepresentation", -1)
        colours = number(self.dataset, "SamplesPerPixel", 1) == 3
        jpeg = self.dataset.file_meta.TransferSyntaxUID in _DCT
        if said not in (0, 1) or (said and (colours or jpeg or self._is_smoother_unsigned())):
            self.correct("PixelRepresentation", 0, noted=said > 0)

    def _is_smoother_unsigned(self) -> bool:
        """Whether uncompressed grey samples that are said to be signed make a smoother picture without a sign."""
        width, stored = number(self.dataset, "BitsAllocated", 0) // 8, number(self.dataset, "BitsStored", 0)
        rows, columns = number(self.dataset, "Rows", 0), number(self.dataset, "Columns", 0)
        syntax = self.dataset.file_meta.TransferSyntaxUID
        pixels = rows * columns
        native = not syntax.is_encapsulated and self.photometric.startswith("MONOCHROME")
        if not native or width not in (1, 2) or len(self.data) < pixels * width:
            return False
        kind = "u1" if width == 1 else ("<u2" if syntax.is_little_endian else ">u2")
        samples = np.frombuffer(self.data, kind, pixels).reshape(rows, columns, 1).astype(np.int32)
        samples = (samples >> (number(self.dataset, "HighBit", stored - 1) + 1 - stored)) & ((1 << stored) - 1)
        plain, signed = sum(roughness(samples)), sum(roughness(samples ^ (1 << (stored - 1))))
        return signed > _PROVEN * plain

    def _planes(self) -> None:
        """Planar Configuration, by which of the two makes the smoother picture where it is missing or wrong."""
        said = number(self.dataset, "PlanarConfiguration", -1)
        rows, columns = number(self.dataset, "Rows", 0), number(self.dataset, "Columns", 0)
        width = number(self.dataset, "BitsAllocated", 8) // 8
        if width not in (1, 2) or len(self.data) < rows * columns * 3 * width:
            return
        big = not self.dataset.file_meta.TransferSyntaxUID.is_little_endian
        kind = np.dtype("u1" if width == 1 else (">u2" if big else "<u2"))
        samples = np.frombuffer(self.data, kind, rows * columns * 3)
        rough = [roughness(samples.reshape(rows, columns, 3)), roughness(_by_plane(samples, rows, columns))]
        better = int(sum(rough[1]) < sum(rough[0]))
        ratio = sum(rough[1 - better]) / max(sum(rough[better]), 1e-9)
        if said in (0, 1):
            # In a grey picture by pixels, read by planes, neighbours across are equal, but those below are not.
            both = all(one < 0.9 * other for one, other in zip(rough[better], rough[said], strict=True))
            if better != said and both and ratio > _PROVEN:
                self.correct("PlanarConfiguration", better)
        elif ratio > _LIKELY:
            self.correct("PlanarConfiguration", better)
        else:
            raise _missing("PlanarConfiguration")


_PROVEN, _LIKELY = 1.5, 1.2
"""How much smoother the other arrangement of planes is where the header is wrong, and where it says nothing."""
_LOOKED_AT = 96
"""Rows that tell which of the two arrangements of planes is meant."""


def _by_plane(samples: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    return samples.reshape(3, rows, columns).transpose(1, 2, 0)


def roughness(picture: NDArray[Any]) -> tuple[float, float]:
    """Mean absolute difference of neighbours of one channel, [H, W, 3], across and down, in its middle rows."""
    first = max(0, (picture.shape[0] - _LOOKED_AT) // 2)
    part = picture[first : first + _LOOKED_AT].astype(np.int32)
    across, down = np.abs(np.diff(part, axis=1)).mean(), np.abs(np.diff(part, axis=0)).mean()
    return float(across), float(down)


def settle_samples(dataset: Dataset) -> list[str]:
    """Bring the stored bits of uncompressed samples to the bottom, by High Bit (PS3.5, 8.1.1).

    Where nothing is above the stored bits and something below where High Bit has them, High Bit is wrong. Where
    samples need more bits than are stored, Bits Stored is, unless those are overlay planes.

    Args:
        dataset: Settled; changed in place.

    Returns:
        Notes.
    """
    stored, high = number(dataset, "BitsStored", 8), number(dataset, "HighBit", -1)
    coded = dataset.file_meta.TransferSyntaxUID.is_encapsulated
    allocated = number(dataset, "BitsAllocated", 8)
    if coded or allocated not in (8, 16) or not stored - 1 <= high < allocated:
        return []
    size = allocated // 8
    kind = "u1" if size == 1 else ("<u2" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">u2")
    samples = np.frombuffer(dataset.PixelData[: len(dataset.PixelData) // size * size], kind)
    below = high + 1 - stored
    top = int(samples.max()) if samples.size else 0
    if size == 1 and top >> stored and (widened := _widen(dataset, samples, top)):
        return widened
    if not below:
        return (
            _widen(dataset, samples, top)
            if top >> stored and not number(dataset, "PixelRepresentation", 0)
            else []
        )
    dataset.HighBit = stored - 1
    if top < 1 << stored and bool((samples & ((1 << below) - 1)).any()):
        return ["corrected_high_bit"]
    shifted = (samples >> below) & ((1 << stored) - 1)
    dataset.PixelData = shifted.astype(kind).tobytes()
    return ["shifted_by_high_bit"]


def _widen(dataset: Dataset, samples: NDArray[Any], top: int) -> list[str]:
    """Bits Stored as many as the largest sample needs, where what is above them belongs to the samples."""
    rows, columns = number(dataset, "Rows", 0), number(dataset, "Columns", 0)
    colours = number(dataset, "SamplesPerPixel", 1)
    first = samples[: rows * columns * colours]
    if first.size < rows * columns * colours:
        return []
    apart = colours == 3 and number(dataset, "PlanarConfiguration", 0) == 1
    picture = _by_plane(first, rows, columns) if apart else first.reshape(rows, columns, colours)
    if not _belongs(picture.astype(np.int32), number(dataset, "BitsStored", 8)):
        return []
    dataset.BitsStored = top.bit_length()
    dataset.HighBit = top.bit_length() - 1
    return ["corrected_bits_stored"]


_OVERLAYS = 4
"""Different values above the stored bits up to which they may be overlays: of two planes."""


def _belongs(picture: NDArray[np.int32], stored: int) -> bool:
    """Whether the bits above those stored continue the samples, and are no overlay planes.

    They do where they count through many values; else where they change from one sample to the next, what is below
    has to run over: then the difference of whole samples is the smaller one.
    """
    above = picture >> stored
    values = np.unique(above)
    if len(values) > _OVERLAYS and len(values) > 0.8 * (int(values[-1]) - int(values[0]) + 1):
        return True
    changes = np.diff(above, axis=1) != 0
    whole = np.abs(np.diff(picture, axis=1))[changes]
    below = np.abs(np.diff(picture & ((1 << stored) - 1), axis=1))[changes]
    return bool(whole.size) and float(np.median(whole)) < float(np.median(below))  # edges are no measure


def uid_name(syntax: UID) -> str:
    """A transfer syntax as messages name it."""
    return syntax.name if syntax.name != str(syntax) else "this transfer syntax"
