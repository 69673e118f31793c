"""The beginning of a DICOM file: how many pictures it holds, and what a DICOMDIR names, without reading pixels."""

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
"""Enough for the elements before the pixels in all but odd files."""
MORE_BYTES = 1 << 20
"""What is read of those."""
MAX_FRAMES = 1000
"""Frames of a file that become images; of more, it is a film, and refused."""

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
    """Whether a file is a DICOMDIR, by its first 512 bytes (PS3.10 7.1: its media storage SOP class)."""
    return head[128:132] == b"DICM" and _DIRECTORY.search(head) is not None


def frames(head: bytes) -> int | None:
    """How many frames a file of photographs of skin holds.

    Args:
        head: Its first bytes, as many as :data:`HEAD_BYTES`, or :data:`MORE_BYTES`.

    Returns:
        0 where it is something else: whoever decodes it says so. None where more has to be read.

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
        except Exception:  # readers fail in every way there is on what is cut off, or of strangers
            return None
    if not reached and "NumberOfFrames" not in dataset:
        return None
    return checked_count(number(dataset, "NumberOfFrames", 1))


def checked_count(count: int) -> int:
    """So many frames, at least one.

    Raises:
        BadInput: ``multi_frame``, if there are more than :data:`MAX_FRAMES`.
    """
    if count > MAX_FRAMES:
        raise BadInput(
            f"the DICOM file holds {count:,} frames, more than the {MAX_FRAMES:,} that are taken as images; "
            "export the wanted ones",
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
        except Exception:  # as above; without the cause: its text may quote the header
            raise BadInput(
                "the DICOMDIR's records cannot be followed; it is damaged: copy the whole export again",
                reason="corrupt",
            ) from None
    return [parts for parts in found if parts]


def _file_id(record: Dataset) -> tuple[str, ...]:
    try:
        value = record.get("ReferencedFileID")
    except Exception:  # a value that cannot be converted: as if it were not there
        return ()
    if value is None or isinstance(value, (str, bytes)):
        value = text(record, "ReferencedFileID").split("\\")
    return tuple(part for part in (str(part).strip(" \"'\0") for part in value) if part)
