"""How many images a file is: DICOM files may have several frames, each an image of its own."""

from __future__ import annotations

from collections.abc import Callable

from dermbatch.images.dicomhead import HEAD_BYTES, MORE_BYTES, frames
from dermbatch.images.imagefile import DICOM, sniff


def count_frames(read: Callable[[int], bytes]) -> int:
    """How many images a file holds: 1 unless it is DICOM that says otherwise.

    Args:
        read: Gives so many of its first bytes.

    Raises:
        BadInput: ``multi_frame``, where they are more than are taken.
    """
    for length in (HEAD_BYTES, MORE_BYTES):
        head = read(length)
        if sniff(head[:256]) != DICOM:
            return 1
        count = frames(head)
        if count is not None:
            return count
        if len(head) < length:
            break
    return 1
