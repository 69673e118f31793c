"""What surrounds the pixels in a data set and is never displayed: bits, bytes, table entries, values.

The pixels stay as they are. ``coded.py`` handles the inside of compressed pictures of the JPEG family.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
from pydicom.datadict import dictionary_VM
from pydicom.dataset import Dataset
from pydicom.uid import UID, RLELossless

from dermbatch.errors import BadInput
from dermbatch.images.dicom.fragments import ITEM, frame_places, joined
from dermbatch.images.dicom.fragments import fragments as found_fragments
from dermbatch.images.dicom.header import element
from dermbatch.images.dicom.palette import table_of

_MOST_VALUES = 8
"""Most values of an attribute that may have any number of them (window widths, compression ratios)."""
_MANY = frozenset({"ReferencedFrameNumber"})

_MOST_BEHIND = 64
"""Bytes after the runs of a segment that may not belong to the picture."""
_RLE_HEADER, _RLE_SEGMENTS, _NO_OPERATION = 64, 15, 0x80
_BYTE = 255
_COLOURS = ("Red", "Green", "Blue")


def leave_pixels_only(dataset: Dataset, syntax: UID) -> None:
    """Remove what surrounds the pixels of a data set, in place, keeping the same pictures.

    Args:
        dataset: With only attributes that may stay, its pixel data and ``file_meta``.
        syntax: Transfer syntax of its pixel data.

    Raises:
        BadInput: ``corrupt``, if the compressed pixel data cannot be parsed.
    """
    _limit_values(dataset)
    element = dataset["PixelData"]
    if syntax.is_encapsulated:
        element._value = _encapsulated(element.value, dataset, rle=syntax == RLELossless)
    else:
        element._value = _native(element.value, dataset, little=syntax.is_little_endian)
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        _limit_palette(dataset)


def _limit_values(dataset: Dataset) -> None:
    """Limit attributes to the number of values in the standard (PS3.6): a list of numbers can spell a name."""
    for one in list(dataset):
        if one.VR == "SQ":
            for item in one.value:
                _limit_values(item)
            continue
        most = dictionary_VM(one.tag).rpartition("-")[2]
        allowed = int(most) if most.isdigit() else _MOST_VALUES
        if allowed < one.VM and one.keyword not in _MANY:
            del dataset[one.tag]


def _native(pixels: bytes, dataset: Dataset, *, little: bool) -> bytes:
    """Uncompressed pixels without the bits outside Bits Stored (PS3.5, 8.1.1); the padding byte is zero."""
    allocated, stored = dataset.get("BitsAllocated"), dataset.get("BitsStored")
    shape = (dataset.get("Rows"), dataset.get("Columns"), dataset.get("SamplesPerPixel", 1))
    if allocated == 8 and all(isinstance(side, int) for side in shape):
        size = int(np.prod(shape)) * int(dataset.get("NumberOfFrames") or 1)
        if len(pixels) == size + 1:
            pixels = pixels[:-1] + b"\0"
    if allocated not in {8, 16} or not isinstance(stored, int) or not 0 < stored < allocated:
        return pixels
    lowest = dataset.get("HighBit", stored - 1) + 1 - stored
    if not 0 <= lowest <= allocated - stored:
        return pixels
    kind = f"{'<' if little else '>'}{'i' if dataset.get('PixelRepresentation') else 'u'}{allocated // 8}"
    words = np.frombuffer(pixels[: len(pixels) // (allocated // 8) * (allocated // 8)], kind)
    above = allocated - stored - lowest
    cleaned = ((words << above) >> above) >> lowest << lowest  # for signed samples, the bits above are the sign
    return bytes(cleaned.astype(kind).tobytes() + pixels[words.nbytes :])


def _encapsulated(pixels: bytes, dataset: Dataset, *, rle: bool) -> bytes:
    """Fragments, with a true offset table or an empty one (PS3.5, A.4), and nothing after the last."""
    places = found_fragments(pixels)
    if len(places) < 2:
        raise BadInput("the compressed pixel data have no fragments; export the file again", reason="corrupt")
    table, fragments = pixels[slice(*places[0])], [pixels[start:end] for start, end in places[1:]]
    frames = int(dataset.get("NumberOfFrames") or 1)
    if rle:
        size = int(dataset.Rows) * int(dataset.Columns)
        each = frame_places(pixels, frames) or [[place] for place in places[1:]]
        fragments = [_rle(joined(pixels, one), size) for one in each]
    made = _item(_true_offsets(table, fragments, frames))
    return made + b"".join(map(_item, fragments))


def _item(content: bytes) -> bytes:
    return ITEM + struct.pack("<I", len(content)) + content


def _true_offsets(table: bytes, fragments: list[bytes], frames: int) -> bytes:
    """The offsets of the frames, if each is that of a fragment, in order; none otherwise."""
    places, at = set(), 0
    for fragment in fragments:
        places.add(at)
        at += 8 + len(fragment)
    offsets = struct.unpack(f"<{len(table) // 4}I", table[: len(table) // 4 * 4])[:frames]
    right = (
        len(offsets) == frames
        and offsets[0] == 0
        and list(offsets) == sorted(set(offsets))
        and places >= set(offsets)
    )
    return struct.pack(f"<{frames}I", *offsets) if right else b""


def _rle(frame: bytes, size: int) -> bytes:
    """A frame of RLE Lossless (PS3.5, G.5) with nothing but its segments' runs.

    Args:
        frame: Header and segments.
        size: Bytes that a segment stands for.
    """
    count = int.from_bytes(frame[:4], "little")
    if len(frame) < _RLE_HEADER or not 0 < count <= _RLE_SEGMENTS:
        raise BadInput(
            f"what {element('PixelData')} holds cannot be parsed as run lengths; export the image again",
            reason="corrupt",
        )
    offsets = struct.unpack_from(f"<{count}I", frame, 4)
    segments: list[bytes] = []
    places: list[int] = []
    for start, limit in zip(offsets, (*offsets[1:], len(frame)), strict=True):
        places.append(_RLE_HEADER + sum(len(one) for one in segments))
        end = _end_of_runs(frame, start, min(limit, len(frame)), size)
        behind = frame[end:limit]
        if len(behind) > _MOST_BEHIND or _is_runs(behind):
            raise BadInput(
                f"{element('Rows')}, {element('Columns')} and the run-length coded picture disagree on its size; "
                "export the image again",
                reason="corrupt",
            )
        runs = frame[start:end]
        segments.append(runs + bytes(len(runs) % 2))
    head = struct.pack("<16I", count, *places, *[0] * (_RLE_SEGMENTS - count))
    return head + b"".join(segments)


def _end_of_runs(frame: bytes, at: int, limit: int, size: int) -> int:
    """Where the runs of a segment end (PS3.5, G.3.2)."""
    while size > 0 and at < limit:
        head = frame[at]
        if head < _NO_OPERATION:
            at, size = at + 2 + head, size - head - 1
        elif head > _NO_OPERATION:
            at, size = at + 2, size - (257 - head)
        else:
            at += 1
    return min(at, limit)


def _is_runs(data: bytes) -> bool:
    """Whether bytes are whole runs, except for a padding byte: then the picture is larger than stated."""
    at = 0
    while at + 1 < len(data):
        at += 2 + data[at] if data[at] < _NO_OPERATION else 2
    return len(data) > 1 and at in (len(data), len(data) - 1)


def _limit_palette(dataset: Dataset) -> None:
    """Make entries that no pixel uses black, and leave nothing after the last one (PS3.3, C.7.6.3.1.5)."""
    indices = _indices(dataset)
    for colour in _COLOURS:
        descriptor = dataset.get(f"{colour}PaletteColorLookupTableDescriptor")
        keyword = f"{colour}PaletteColorLookupTableData"
        if keyword not in dataset or descriptor is None or len(descriptor) != 3:
            continue
        entries, (first, bits) = table_of(dataset, colour)
        words = "<u2" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">u2"
        table = entries.astype(words if bits == 16 else np.uint8)
        if indices is not None:
            unused = np.ones(len(table), bool)
            unused[np.clip(indices - first, 0, len(table) - 1)] = False
            deep = int(table.max(initial=0)) > _BYTE
            table[unused] = 0
            if deep and int(table.max()) <= _BYTE:  # readers would otherwise mistake 16-bit entries for 8-bit ones
                table[np.argmax(unused)] = 0xFFFF
        whole = table.tobytes()
        dataset[keyword]._value = whole + bytes(len(whole) % 2)


def _indices(dataset: Dataset) -> npt.NDArray[np.int64] | None:
    """The palette entries that pixels use; none if only a decoder that is not available could tell."""
    try:
        return np.asarray(np.unique(dataset.pixel_array), np.int64)
    except (
        Exception
    ):  # decoders fail on untrusted files in every possible way; whoever reads the file will report it
        return None
