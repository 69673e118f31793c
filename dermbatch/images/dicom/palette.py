"""The colours of a DICOM palette (PS3.3, C.7.6.3.1.5 and .6), in every width that exporters write them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from dermbatch.errors import BadInput
from dermbatch.images.dicom.agreement import element
from dermbatch.images.pixels import Rgb, to_eight_bit

_COLOURS = ("Red", "Green", "Blue")


def coloured(indices: NDArray[Any], dataset: Dataset) -> tuple[Rgb, list[str]]:
    """The colours of palette indices.

    Entries said to have 16 bits of which only the lower 8 are used have 8: else they would all be black.

    Args:
        indices: [H, W], of any integer type.
        dataset: Has the palette.

    Returns:
        uint8 [H, W, 3], and notes.

    Raises:
        BadInput: ``corrupt``, where the palette is missing or too short.
    """
    if "SegmentedRedPaletteColorLookupTableData" in dataset and "RedPaletteColorLookupTableData" not in dataset:
        found = apply_color_lut(indices, dataset)
        return to_eight_bit(found, found.dtype.itemsize * 8), []
    tables, notes = zip(*(_table(dataset, colour) for colour in _COLOURS), strict=True)
    deep = [bits == 16 for _, bits in notes]
    used = max(int(table.max()) for table in tables)
    bits = 16 if any(deep) and used > 255 else 8
    first = notes[0][0]
    place = np.clip(indices.astype(np.int64) - first, 0, None)
    channels = [table[np.minimum(place, len(table) - 1)] for table in tables]
    said = ["corrected_palette"] if any(deep) and bits == 8 else []
    return to_eight_bit(np.stack(channels, axis=-1).astype(np.uint16), bits), said


def _table(dataset: Dataset, colour: str) -> tuple[NDArray[np.uint16], tuple[int, int]]:
    """Entries of a colour; the index that the first is for; bits of an entry as they are stored and stated."""
    descriptor = dataset.get(f"{colour}PaletteColorLookupTableDescriptor")
    data = dataset.get(f"{colour}PaletteColorLookupTableData")
    try:
        count, first, stated = (int(one) for one in descriptor)
    except (TypeError, ValueError):
        raise _unusable(f"{colour}PaletteColorLookupTableDescriptor") from None
    count = (count & 0xFFFF) or 1 << 16
    body = data if isinstance(data, bytes) else b""
    if len(body) >= 2 * count and not (stated == 8 and len(body) < 2 * count):
        little = dataset.file_meta.TransferSyntaxUID.is_little_endian
        return np.frombuffer(body, "<u2" if little else ">u2", count).astype(np.uint16), (first, 16)
    if len(body) >= count:
        return np.frombuffer(body, np.uint8, count).astype(np.uint16), (first, 8)
    raise _unusable(f"{colour}PaletteColorLookupTableData")


def _unusable(keyword: str) -> BadInput:
    return BadInput(
        f"{element(keyword)} is missing or too short for the palette; export the image again as RGB",
        reason="corrupt",
    )
