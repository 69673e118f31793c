"""Files of every coding that images are taken in, to be decoded in a container and beside it."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import JPEG2000Lossless, RLELossless
from tifffile import imwrite

from dermbatch.phantoms.phantom import Phantom, phantom
from dermbatch.phantoms.samples import SECONDARY_CAPTURE, dicom

_BY_PILLOW = ("JPEG", "PNG", "BMP", "WEBP", "AVIF", "JPEG2000", "TIFF", "GIF")
_DEEP = ("deflate", "jpeg", "jpeg2000", "jpegxl", "jpegxr", "lerc", "lzma", "lzw", "packbits", "png", "zstd")
_EIGHT_BITS = (*_DEEP, "webp")
_SYNTAXES = (JPEG2000Lossless, RLELossless)


def write_formats(folder: Path) -> int:
    """Write a file of each; returns how many. There is no encoder of HEIC."""
    drawn = phantom(11, height=120, width=160)
    made = dict((*_rasters(drawn), *_tiffs(drawn.image), *_dicoms(drawn)))
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return len(made)


def _rasters(drawn: Phantom) -> Iterator[tuple[str, bytes]]:
    """What Pillow writes, and JPEG files that neither it nor OpenCV reads."""
    image = Image.fromarray(drawn.image)
    for coding in _BY_PILLOW:
        yield f"plain {coding}", _by_pillow(image, coding)
    yield "cmyk JPEG", _by_pillow(image.convert("CMYK"), "JPEG")
    yield "palette PNG", _by_pillow(image.quantize(64), "PNG")
    yield "group 4 TIFF", _by_pillow(image.convert("1"), "TIFF", compression="group4")
    deep = drawn.image.astype(np.uint16) * 16
    yield "12 bit JPEG", bytes(imagecodecs.jpeg8_encode(deep, bitspersample=12))
    yield "JPEG-LS", bytes(imagecodecs.jpegls_encode(drawn.image))


def _by_pillow(image: Image.Image, coding: str, **options: str) -> bytes:
    file = BytesIO()
    image.save(file, coding, **options)
    return file.getvalue()


def _tiffs(pixels: NDArray[np.uint8]) -> Iterator[tuple[str, bytes]]:
    """Deep ones, which Pillow would cut, and plain ones, of which it reads some."""
    for compression in _DEEP:
        yield f"16 bit TIFF, {compression}", _tiff(pixels.astype(np.uint16) * 257, compression)
    for compression in _EIGHT_BITS:
        yield f"8 bit TIFF, {compression}", _tiff(pixels, compression)


def _tiff(pixels: NDArray[np.unsignedinteger], compression: str) -> bytes:
    file = BytesIO()
    imwrite(file, pixels, compression=compression, photometric="rgb")
    return file.getvalue()


def _dicoms(drawn: Phantom) -> Iterator[tuple[str, bytes]]:
    """As they are drawn, and coded by what pydicom finds; JPEG-LS takes a decoder that images have not unasked."""
    yield "JPEG DICOM", dicom(drawn, identity=11)
    raw = dicom(drawn, identity=11, sop_class=SECONDARY_CAPTURE, jpeg=False)
    yield "raw DICOM", raw
    for syntax in _SYNTAXES:
        dataset = pydicom.dcmread(BytesIO(raw))
        dataset.compress(syntax, generate_instance_uid=False)
        file = BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        yield f"{syntax.name} DICOM", file.getvalue()
