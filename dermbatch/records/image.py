"""An image, as decoding it tells."""

from __future__ import annotations

from pydantic import Field

from dermbatch.records.record import Record


class ImageInfo(Record):
    """What decoding an object says of it; equal wherever the object lies."""

    sha256: str = Field(description="digest of the file; of a frame, of '<digest of the file>#frame=<frame>'")
    bytes: int
    media_type: str
    height: int
    width: int
    pixel_spacing_mm: tuple[float, float] | None = Field(default=None, description="(row, column) spacing")
    notes: tuple[str, ...] = Field(default=(), description="conversions: exif_rotated, from_16_bit, from_cmyk ...")
    frame: int | None = Field(default=None, description="of a DICOM file of several: which, from 1")


class SourceInfo(ImageInfo):
    """The object that was read."""

    uri: str
