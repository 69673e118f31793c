"""The phantom as files of every kind, and what is read from them, de-identified or not."""

from __future__ import annotations

import io
import struct
from functools import cache

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from pydantic import SecretStr
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import (
    JPEGBaseline8Bit,
)

from dermbatch.errors import BadInput
from dermbatch.images.imagefile import SourceImage, read_image
from orchestrator.planning.intake.frames import count_frames
from orchestrator.planning.privacy.deidentify import deidentify
from orchestrator.planning.privacy.profile import Profile
from orchestrator.planning.privacy.pseudonyms import Pseudonyms
from tests import corpus
from tests.corpus import changed_dicom

LIMIT = 120_000_000
IMAGE = corpus.DRAWN.image
HEIGHT, WIDTH = IMAGE.shape[:2]
GREY = cv2.cvtColor(IMAGE, cv2.COLOR_RGB2GRAY)
LOSSY = 4  # mean difference of 255


def read(data: bytes, frame: int | None = None) -> SourceImage:
    return read_image(data, max_pixels=LIMIT, frame=frame)


def counted(data: bytes) -> int:
    return count_frames(lambda length: data[:length], len(data))


def cleaned(data: bytes) -> bytes:
    profile = Profile(name="p", dates="keep", uids="keep", burned_in_text="flag")
    return deidentify(data, profile, Pseudonyms(SecretStr("s" * 40)), max_pixels=LIMIT).data


def reason(data: bytes, max_pixels: int = LIMIT) -> str:
    """Why it is refused as it is."""
    with pytest.raises(BadInput) as caught:
        read_image(data, max_pixels=max_pixels)
    return caught.value.reason


def read_or_refuse(data: bytes) -> SourceImage | None:
    """What is read of a file that may be refused, but for no other error."""
    try:
        return read_image(data, max_pixels=1_000_000)
    except BadInput:
        return None


def apart(found: SourceImage, truth: np.ndarray) -> float:
    assert found.pixels.shape == truth.shape
    return float(np.abs(found.pixels.astype(int) - truth).mean())


def both_are(data: bytes, truth: np.ndarray = IMAGE, limit: float = 0.0) -> SourceImage:
    """The picture as it is, and of the de-identified copy: equal, and the true one."""
    found = read(data)
    assert apart(found, truth) <= limit
    copy = read(cleaned(data))
    assert np.array_equal(copy.pixels, found.pixels)
    assert (copy.pixel_spacing_mm, copy.pixel_aspect) == (found.pixel_spacing_mm, found.pixel_aspect)
    return found


def refusal(data: bytes) -> BadInput:
    """Why it is refused, with its identity and without."""
    refused = []
    for attempt in (read, cleaned):
        with pytest.raises(BadInput) as caught:
            attempt(data)
        assert "Error" not in str(caught.value)
        refused.append(caught.value)
    return refused[0]


def image(pixels: bytes | None = None, syntax: str | None = None, **values: object) -> bytes:
    """The phantom's data set, uncompressed, with other pixel data and values; None takes an element out."""

    def change(dataset: Dataset) -> None:
        if pixels is not None:
            dataset.PixelData = pixels + bytes(len(pixels) % 2)
        if syntax is not None:
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset["PixelData"].is_undefined_length = dataset.PixelData[:4] == b"\xfe\xff\x00\xe0"
        for keyword, value in values.items():
            if value is None:
                dataset.pop(keyword, None)
            elif keyword.endswith("LookupTableDescriptor"):
                dataset.add_new(keyword, "US", value)
            elif keyword.endswith("LookupTableData"):
                dataset.add_new(keyword, "OW", value)
            else:
                setattr(dataset, keyword, value)
        dataset["PixelData"].VR = "OW" if dataset.get("BitsAllocated", 8) > 8 else "OB"

    return changed_dicom(change)


def ycbcr() -> np.ndarray:
    return cv2.cvtColor(IMAGE, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]


@cache
def jpeg(subsampling: str = "4:2:0", keep_rgb: bool = False) -> bytes:
    buffer = io.BytesIO()
    more = {"keep_rgb": True} if keep_rgb else {"subsampling": subsampling}
    Image.fromarray(IMAGE).save(buffer, "JPEG", quality=95, **more)
    return buffer.getvalue()


def bare(stream: bytes) -> bytes:
    """A JPEG stream without application markers."""
    kept, at = b"\xff\xd8", 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        kept += b"" if 0xE0 <= stream[at + 1] <= 0xEF else stream[at:end]
        at = end
    return kept + stream[at:]


def coded(stream: bytes, syntax: str = JPEGBaseline8Bit, **values: object) -> bytes:
    return image(encapsulate([stream]), syntax, **values)


PLANES = np.moveaxis(IMAGE, -1, 0).tobytes()
DEEP = (IMAGE.astype(np.uint16) * 257).astype("<u2")
JLS = imagecodecs.jpegls_encode(IMAGE)
J2K = imagecodecs.jpeg2k_encode(IMAGE, codecformat="j2k", reversible=True, level=0)


def items(*fragments: bytes, table: tuple[int, ...] = ()) -> bytes:
    """Encapsulated pixel data of these fragments, with this offset table."""
    contents = [struct.pack(f"<{len(table)}I", *table), *(one + bytes(len(one) % 2) for one in fragments)]
    return b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(one)) + one for one in contents)


def halved(*streams: bytes) -> list[bytes]:
    """Two fragments of each."""
    return [part for one in streams for part in (one[: len(one) // 4 * 2], one[len(one) // 4 * 2 :])]


OTHER = np.ascontiguousarray(IMAGE[::-1])
J2K_OTHER = imagecodecs.jpeg2k_encode(OTHER, codecformat="j2k", reversible=True, level=0)
JLS_OTHER = imagecodecs.jpegls_encode(OTHER)
RLE = [
    RLELosslessEncoder.encode(
        one,
        encoding_plugin="pydicom",
        rows=HEIGHT,
        columns=WIDTH,
        samples_per_pixel=3,
        number_of_frames=1,
        bits_allocated=8,
        bits_stored=8,
        pixel_representation=0,
        photometric_interpretation="RGB",
        planar_configuration=0,
    )
    for one in (IMAGE, OTHER)
]


def grey(pixels: bytes | None = None, **values: object) -> bytes:
    attributes = {"SamplesPerPixel": 1, "PlanarConfiguration": None, "PhotometricInterpretation": "MONOCHROME2"}
    return image(GREY.tobytes() if pixels is None else pixels, **{**attributes, **values})


def tiff(pixels: np.ndarray, **more: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric=more.pop("photometric", "rgb"), metadata=None, **more)
    return buffer.getvalue()


def saved(kind: str, picture: np.ndarray = IMAGE) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return buffer.getvalue()
