"""Masks as files, and back pixel by pixel: PNG, COCO's run lengths, DICOM Segmentation.

Files come from other programs. Anything but a mask of the picture's size is refused before it is unpacked.
"""

from __future__ import annotations

import json
import struct
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SegmentationStorage,
)

from dermbatch.images.lesion import Mask
from dermbatch.images.quiet import quiet
from dermbatch.records.codes import SKIN_LESION
from dermbatch.review.masks import of_runs, runs

_PNG = b"\x89PNG\r\n\x1a\n"
_PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_FIVE, _OFFSET, _MORE, _SIGN = 5, 48, 0x20, 0x10


def mask_of(body: bytes, height: int, width: int, instance: str | None = None, frame: int | None = None) -> Mask:
    """The mask in a file of any of these kinds, uint8 [H, W], 0 or 255.

    Args:
        body: The file.
        height: Height of the picture.
        width: Likewise.
        instance: SOP Instance UID of the picture, if it is DICOM: a Segmentation that names another is refused.
        frame: Which frame of the picture, from 1; none if it has only one.

    Raises:
        ValueError: If it is not a mask, or has another size; the sentence says which.
    """
    if body.startswith(_PNG):
        return _of_png(body, height, width)
    if is_dicom(body):
        return _of_segmentation(body, height, width, instance, frame)
    if body.lstrip()[:1] in (b"{", b"["):
        return of_coco(_parsed(body), height, width)
    raise ValueError("the file is neither a PNG, nor COCO's JSON, nor a DICOM Segmentation")


def mask_of_png(body: bytes, height: int, width: int) -> Mask:
    """The mask in a PNG; otherwise as :func:`mask_of`."""
    if not body.startswith(_PNG):
        raise ValueError("the file is not a PNG")
    return _of_png(body, height, width)


def coco(mask: Mask) -> dict[str, Any]:
    """COCO's segmentation of a mask, compressed as in ``pycocotools``: ``size``, ``counts``."""
    return {"size": [int(side) for side in mask.shape], "counts": compressed(runs(mask))}


def of_coco(document: Any, height: int, width: int) -> Mask:
    """The mask in COCO's run lengths, compressed or not: a segmentation, an annotation, or a file with one.

    Raises:
        ValueError: If there is none, or it has another size.
    """
    if isinstance(document, dict) and "annotations" in document:
        found = document["annotations"]
        if not isinstance(found, list) or len(found) != 1:
            raise ValueError("the file has no annotation or several; name one")
        document = found[0]
    if isinstance(document, dict) and "segmentation" in document:
        document = document["segmentation"]
    if not isinstance(document, dict) or not {"size", "counts"} <= set(document):
        raise ValueError("there are no run lengths (size, counts) in the file; polygons are not taken")
    if document["size"] != [height, width]:
        raise ValueError(f"the mask is of {document['size']} pixels, and the picture of {height} x {width}")
    counts = document["counts"]
    return of_runs(decompressed(counts) if isinstance(counts, str) else _numbers(counts), height, width)


def compressed(counts: list[int]) -> str:
    """Run lengths as COCO's string: differences from the run before the last, five bits per character."""
    text = bytearray()
    for place, count in enumerate(counts):
        left = count - counts[place - 2] if place > 2 else count
        while True:
            five, left = left & 0x1F, left >> _FIVE
            more = left != (-1 if five & _SIGN else 0)
            text.append(_OFFSET + (five | _MORE if more else five))
            if not more:
                break
    return text.decode("ascii")


def decompressed(text: str) -> list[int]:
    """Run lengths from COCO's string.

    Raises:
        ValueError: If it breaks off or has other characters.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text.encode():
        five = character - _OFFSET
        if not 0 <= five < 1 << (_FIVE + 1) or shift > 60:
            raise ValueError("these are not run lengths of COCO")
        value |= (five & 0x1F) << shift
        shift += _FIVE
        if five & _MORE:
            continue
        value -= 1 << shift if five & _SIGN else 0
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the run lengths are cut off")
    return counts


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("the file is not JSON") from error


def _numbers(counts: Any) -> list[int]:
    if not isinstance(counts, list) or not all(type(count) is int and count < 1 << 40 for count in counts):
        raise ValueError("these are not run lengths of COCO")
    return counts


def _of_png(body: bytes, height: int, width: int) -> Mask:
    across, down = struct.unpack(">II", body[16:24]) if len(body) >= 24 else (0, 0)
    if (across, down) != (width, height):
        raise ValueError(_other_size(across, down, height, width))
    pixels = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("the file is not a readable PNG")
    return _two_valued(np.asarray(pixels))


def _other_size(across: int, down: int, height: int, width: int) -> str:
    return f"the mask is of {across} x {down} pixels, and the picture of {width} x {height}"


def _two_valued(pixels: npt.NDArray[Any]) -> Mask:
    """A picture of two values as a mask; colours must be greys, and opacity must say nothing else."""
    plane = pixels if pixels.ndim == 2 else pixels[..., 0]
    if pixels.ndim == 3 and not (pixels[..., : min(3, pixels.shape[2])] == plane[..., None]).all():
        raise ValueError("the picture has colours, but a mask has two values")
    most = plane.max()
    if not np.isin(plane, (0, most)).all():
        raise ValueError("the picture has more than two values, so it is not a mask")
    if pixels.ndim == 3 and pixels.shape[2] == 4 and not _says_nothing_else(pixels[..., 3], plane):
        raise ValueError("the picture's opacity shows another mask than its values; lay it over black")
    return np.where(plane > 0, 255, 0).astype(np.uint8)


def _says_nothing_else(opacity: npt.NDArray[Any], plane: npt.NDArray[Any]) -> bool:
    """Whether opacity is the same everywhere, or the same as the lesion."""
    return bool((opacity == opacity.max()).all() or np.array_equal(opacity > 0, plane > 0))


def is_dicom(body: bytes) -> bool:
    """Whether a file says that it is DICOM (PS3.10, 7.1)."""
    return body[128:132] == b"DICM"


def _of_segmentation(body: bytes, height: int, width: int, instance: str | None, frame: int | None) -> Mask:
    """The lesion of a binary Segmentation (PS3.3, A.51) of one plane: its one segment, or the one that says so."""
    with quiet():
        try:
            found = dcmread(BytesIO(body))
            if instance is not None:
                _check_source(found, instance, frame)
            return _segment(found, height, width)
        except ValueError:
            raise
        except Exception as error:  # readers fail on untrusted files in every possible way
            raise ValueError("the DICOM file cannot be read") from error


def _check_source(found: Dataset, instance: str, frame: int | None) -> None:
    """Refuse a Segmentation that names images, but not this one (PS3.3, C.7.6.16.2.1.1, and C.12.4).

    Raises:
        ValueError: If it does so.
    """
    named = [item for element in found.iterall() if element.VR == "SQ" for item in element.value]
    named = [item for item in named if "ReferencedSOPInstanceUID" in item]
    ours = [item for item in named if item.ReferencedSOPInstanceUID == instance]
    if named and not ours:
        raise ValueError("the Segmentation is of another image: it does not name this image's SOP Instance UID")
    frames = [item.ReferencedFrameNumber for item in ours if item.get("ReferencedFrameNumber")]
    numbers = {int(one) for value in frames for one in (value if isinstance(value, MultiValue) else [value])}
    if frame is not None and numbers and frame not in numbers:
        raise ValueError(f"the Segmentation is of another frame than {frame} of this image")


def _segment(found: Dataset, height: int, width: int) -> Mask:
    if found.get("SOPClassUID") != SegmentationStorage or found.get("SegmentationType") != "BINARY":
        raise ValueError("the DICOM file is not a binary Segmentation")
    if (found.Rows, found.Columns) != (height, width):
        raise ValueError(_other_size(int(found.Columns), int(found.Rows), height, width))
    frame = _frame_of_lesion(found)
    if found.file_meta.TransferSyntaxUID not in _PLAIN:
        raise ValueError("the Segmentation is compressed; write it as Explicit VR Little Endian")
    bits = np.unpackbits(np.frombuffer(found.PixelData, np.uint8), bitorder="little")
    bits = bits[frame * height * width :][: height * width]
    if len(bits) < height * width:
        raise ValueError("the Segmentation is cut off")
    return (bits.reshape(height, width) * 255).astype(np.uint8)


def _frame_of_lesion(found: Dataset) -> int:
    """Which frame has the mask: the only one, or that of the only segment that is a skin lesion."""
    frames = int(found.get("NumberOfFrames", 1))
    if frames == len(found.SegmentSequence) == 1:
        return 0
    numbers = [one.SegmentNumber for one in found.SegmentSequence if _is_lesion(one)]
    groups = found.get("PerFrameFunctionalGroupsSequence") or []
    of = [group.SegmentIdentificationSequence[0].ReferencedSegmentNumber for group in groups]
    if len(numbers) != 1 or len(of) != frames or of.count(numbers[0]) != 1:
        raise ValueError("the Segmentation has several segments or planes, but a mask is only one")
    return of.index(numbers[0])


def _is_lesion(segment: Dataset) -> bool:
    kinds = segment.get("SegmentedPropertyTypeCodeSequence") or []
    return [(one.CodeValue, one.CodingSchemeDesignator) for one in kinds] == [
        (SKIN_LESION.value, SKIN_LESION.scheme_designator)
    ]
