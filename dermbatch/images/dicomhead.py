"""The beginning of a DICOM file: how many pictures it holds and what a DICOMDIR names, without reading pixels."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dermbatch.errors import BadInput
from dermbatch.images.dicompolicy import DIRECTORY_CLASS, check_is_skin, number, text
from dermbatch.images.quiet import quiet

HEAD_BYTES = 32 << 10
"""Enough bytes for the elements before the pixels in all but odd files."""
MORE_BYTES = 1 << 20
"""How many bytes are read of odd files."""
MAX_FRAMES = 1000
"""Frames of one file that may become images; a file with more is a film, and refused."""

_LOOKED_AT: list[Any] = [
    Tag(keyword)
    for keyword in (
        "SOPClassUID",
        "Modality",
        "BodyPartExamined",
        "PhotometricInterpretation",
        "BitsStored",
        "NumberOfFrames",
    )
]
_LAST = 0x00280101  # Bits Stored
_DIRECTORY = re.compile(rb"\x02\x00\x02\x00UI..\"?" + re.escape(DIRECTORY_CLASS.encode()) + rb"[^0-9.]", re.DOTALL)


def is_directory(head: bytes) -> bool:
    """Whether the first 512 bytes are those of a DICOMDIR (PS3.10 7.1: its media storage SOP class)."""
    return head[128:132] == b"DICM" and _DIRECTORY.search(head) is not None


def frames(head: bytes) -> int | None:
    """How many frames a file with photographs of skin holds.

    Args:
        head: Its first bytes, as many as :data:`HEAD_BYTES`, or :data:`MORE_BYTES`.

    Returns:
        0 if it is something else, which its decoder will report; none if more has to be read.

    Raises:
        BadInput: ``multi_frame``, if there are more than :data:`MAX_FRAMES`.
    """
    reached = False

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal reached
        reached = int(tag) > _LAST
        return reached

    if DeflatedExplicitVRLittleEndian.encode() in head:  # it inflates whole or not at all
        return 0
    with quiet():
        try:
            dataset = read_partial(BytesIO(head), stop, force=True, specific_tags=_LOOKED_AT)
            check_is_skin(dataset)
        except BadInput:
            return 0
        except Exception:  # readers fail on truncated or untrusted files in every possible way
            return None
    if not reached and "NumberOfFrames" not in dataset:
        return None
    return checked_count(number(dataset, "NumberOfFrames", 1))


def checked_count(count: int) -> int:
    """This number of frames, but at least one.

    Raises:
        BadInput: ``multi_frame``, if there are more than :data:`MAX_FRAMES`.
    """
    if count > MAX_FRAMES:
        raise BadInput(
            f"the DICOM file holds {count:,} frames, more than the {MAX_FRAMES:,} that are processed; export "
            f"those that you need",
            reason="multi_frame",
        )
    return max(count, 1)


def referenced_files(data: bytes) -> list[tuple[str, ...]]:
    """The files that a DICOMDIR names, in its order: each as the components of its path (PS3.10 8.2).

    Raises:
        BadInput: ``corrupt``, if it cannot be read.
    """
    with quiet():
        try:
            dataset = read_partial(BytesIO(data), force=True)
            found = [_file_id(record) for record in dataset.get("DirectoryRecordSequence") or ()]
        except Exception:  # as above; raised without the cause, whose text may quote the header
            raise BadInput(
                "the DICOMDIR is damaged: its records cannot be followed; copy the whole export again",
                reason="corrupt",
            ) from None
    return [parts for parts in found if parts]


def _file_id(record: Dataset) -> tuple[str, ...]:
    try:
        value = record.get("ReferencedFileID")
    except Exception:  # a value that cannot be converted counts as missing
        return ()
    if value is None or isinstance(value, (str, bytes)):
        value = text(record, "ReferencedFileID").split("\\")
    return tuple(part for part in (str(part).strip(" \"'\0") for part in value) if part)
