"""DICOM files of several frames as candidates: an image of its own for each frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from dermbatch.errors import PermanentError
from dermbatch.images.dicomhead import HEAD_BYTES, MORE_BYTES, frames
from dermbatch.images.imagefile import DICOM, sniff
from dermbatch.records import Refusal
from orchestrator.planning.intake.candidates import Candidate


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


def framed(candidate: Candidate, count: Callable[[], int]) -> Iterator[Candidate]:
    """The candidate itself, or one for each of its frames, all with the same ``read``.

    Args:
        candidate: The file.
        count: Says how many frames it has.
    """
    if candidate.refusal is not None:
        yield candidate
        return
    try:
        frame_count = count()
    except PermanentError as error:
        refusal = Refusal(reason=error.reason, message=str(error))
        yield replace(candidate, read=None, uri=None, etag=None, refusal=refusal)
        return
    if frame_count == 1:
        yield candidate
        return
    for frame in range(1, frame_count + 1):
        yield replace(candidate, name=f"{candidate.name}#frame={frame}", frame=frame)
