"""The colours of a DICOM palette (PS3.3, C.7.6.3.1.5 and .6), in every width that exporters write."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dermbatch.errors import BadInput
from dermbatch.images.dicom.header import element
from dermbatch.images.dicompolicy import number
from dermbatch.images.pixels import Rgb, to_eight_bit

_COLOURS = ("Red", "Green", "Blue")
_DATA = "PaletteColorLookupTableData"
_DISCRETE, _LINEAR, _INDIRECT = range(3)
"""Kinds of segments."""


def coloured(indices: NDArray[Any], dataset: Dataset) -> tuple[Rgb, list[str]]:
    """The colours of palette indices.

    Entries that claim 16 bits but use only the lower 8 are read as 8 bits: otherwise all would be black.

    Args:
        indices: [H, W], of any integer type.
        dataset: The data set with the palette.

    Returns:
        uint8 [H, W, 3], and notes.

    Raises:
        BadInput: ``corrupt``, if the palette is missing or too short.
    """
    tables, notes = zip(*(table_of(dataset, colour) for colour in _COLOURS), strict=True)
    deep = [bits == 16 for _, bits in notes]
    used = max(int(table.max()) for table in tables)
    bits = 16 if any(deep) and used > 255 else 8
    first = notes[0][0]
    place = np.clip(indices.astype(np.int64) - first, 0, None)
    channels = [table[np.minimum(place, len(table) - 1)] for table in tables]
    corrections = ["corrected_palette"] if any(deep) and bits == 8 else []
    return to_eight_bit(np.stack(channels, axis=-1).astype(np.uint16), bits), corrections


def has_colours(dataset: Dataset) -> bool:
    """Whether there is a palette of colours: one whose three tables are not all the same."""
    tables = [dataset.get(f"{colour}{_DATA}") or dataset.get(f"Segmented{colour}{_DATA}") for colour in _COLOURS]
    return all(tables) and any(bytes(table) != bytes(tables[0]) for table in tables)


def without_segments(dataset: Dataset) -> None:
    """Expand a segmented palette into a plain one, in place; an existing plain palette stays.

    Raises:
        BadInput: ``corrupt``, if the segments cannot be followed.
    """
    for colour in _COLOURS:
        segmented, plain = f"Segmented{colour}{_DATA}", f"{colour}{_DATA}"
        if segmented in dataset and plain not in dataset:
            entries, (_, bits) = table_of(dataset, colour)
            body = entries.astype(_words(dataset) if bits == 16 else np.uint8).tobytes()
            dataset.add_new(plain, "OW", body + bytes(len(body) % 2))
        dataset.pop(segmented, None)


def table_of(dataset: Dataset, colour: str) -> tuple[NDArray[np.uint16], tuple[int, int]]:
    """The entries of a colour; the index of the first one; the bits of an entry as stored, 8 or 16.

    Args:
        dataset: The data set with the palette.
        colour: ``Red``, ``Green`` or ``Blue``.

    Raises:
        BadInput: ``corrupt``, if the table is missing, or has fewer entries than it says.
    """
    descriptor = dataset.get(f"{colour}PaletteColorLookupTableDescriptor")
    try:
        count, first, stated = (int(one) for one in descriptor)
    except (TypeError, ValueError):
        raise _unusable(f"{colour}PaletteColorLookupTableDescriptor") from None
    count = (count & 0xFFFF) or 1 << 16
    if first > 0x7FFF and number(dataset, "PixelRepresentation", 0) == 1:
        first -= 1 << 16  # signed if the indices are, whatever its VR says
    segmented = f"Segmented{colour}{_DATA}"
    if segmented in dataset and f"{colour}{_DATA}" not in dataset:
        return _expanded(dataset, segmented, count, wide=stated > 8), (first, 16 if stated > 8 else 8)
    data = dataset.get(f"{colour}{_DATA}")
    body = data if isinstance(data, bytes) else b""
    if len(body) >= 2 * count and not (stated == 8 and len(body) < 2 * count):
        return np.frombuffer(body, _words(dataset), count).astype(np.uint16), (first, 16)
    if count <= len(body) <= count + 1 or (len(body) > count and stated == 8):
        return np.frombuffer(body, np.uint8, count).astype(np.uint16), (first, 8)
    raise _unusable(f"{colour}{_DATA}")


def _words(dataset: Dataset) -> str:
    return "<u2" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">u2"


def _expanded(dataset: Dataset, keyword: str, count: int, *, wide: bool) -> NDArray[np.uint16]:
    """The entries of a segmented palette (PS3.3, C.7.9.2), exactly as many as its descriptor states."""
    data = dataset.get(keyword)
    body = data if isinstance(data, bytes) else b""
    kind = _words(dataset) if wide else "u1"
    size = 2 if wide else 1
    words = np.frombuffer(body[: len(body) // size * size], kind).tolist()
    try:
        entries = _entries(words, count, size)[:count]
    except (IndexError, ValueError):
        raise _unusable(keyword) from None
    if len(entries) < count:
        raise _unusable(keyword)
    return np.array(entries, np.uint16)


def _entries(words: list[int], count: int, size: int) -> list[int]:
    """Follow the segments one by one; a copied segment may not copy others, so this terminates."""
    found: list[int] = []
    at = 0
    while at + 1 < len(words) and len(found) < count:
        code, length = words[at], words[at + 1]
        if code != _INDIRECT:
            at = _follow(words, at, found)
            continue
        places = words[at + 2 : at + 2 + 4 // size]
        place = sum(one << (8 * size * number) for number, one in enumerate(places)) // size
        for _ in range(length):
            if words[place] == _INDIRECT or len(found) > count:
                raise ValueError("a copied segment copies others")
            place = _follow(words, place, found)
        at += 2 + 4 // size
    return found


def _follow(words: list[int], at: int, found: list[int]) -> int:
    """Add the entries of a discrete or a linear segment; returns where the next one begins."""
    code, length, value = words[at], words[at + 1], words[at + 2]
    if code == _DISCRETE:
        found.extend(words[at + 2 : at + 2 + length])
        return at + 2 + length
    if code != _LINEAR:
        raise ValueError("unknown kind of segment")
    found.extend(np.rint(np.linspace(found[-1], value, length + 1)[1:]).astype(int).tolist())
    return at + 3


def _unusable(keyword: str) -> BadInput:
    return BadInput(
        f"{element(keyword)} is missing, too short for the palette or damaged; export the image again as RGB",
        reason="corrupt",
    )
