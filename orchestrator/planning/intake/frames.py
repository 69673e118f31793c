"""How many images a file holds: DICOM files may have several frames, each an image of its own."""

from __future__ import annotations

from collections.abc import Callable

from dermbatch.images.dicom.fragments import may_hold_more, proven_pictures
from dermbatch.images.dicomhead import HEAD_BYTES, MORE_BYTES, checked_count, frames
from dermbatch.images.imagefile import DICOM, sniff


def count_frames(read: Callable[[int], bytes], size: int) -> int:
    """How many images a file holds: 1 unless it is DICOM that states or proves otherwise.

    Args:
        read: Returns this many of its first bytes.
        size: Bytes of the file.

    Raises:
        BadInput: ``multi_frame``, if they are more than are taken.
    """
    for length in (HEAD_BYTES, MORE_BYTES):
        head = read(length)
        if sniff(head[:256]) != DICOM:
            return 1
        count = frames(head)
        if count == 1 and may_hold_more(head, size):
            return checked_count(proven_pictures(read(size)))
        if count is not None:
            return max(1, count)
        if len(head) < length:
            break
    return 1
