"""What a walk through inputs yields: candidates for images, and things that are no images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from dermbatch.errors import PermanentError
from dermbatch.records.asked import Earlier, Filters, Position, Refusal

START = Position()


@dataclass(frozen=True)
class Candidate:
    """One input that may be an image. At least one of ``read``, ``uri`` and ``refusal`` is given.

    Attributes:
        name: What the user calls it.
        read: Reads the bytes, which must be uploaded if there is no ``uri``; raises :class:`DermbatchError`.
        uri: The object or file in which workers find it.
        size: Bytes.
        refusal: Why it cannot be processed.
        etag: ETag of the object that holds it.
        sha256: SHA-256 of its bytes, if they have been read and uploaded.
        earlier: The result that this image's is to be compared with.
        frame: Which frame of a DICOM file of several, from 1; those of one file follow each other and share
            ``read``.
        packed: Whether it is in an archive, so that reading means unpacking.
        position: Where a walk resumes after it.
        may_have_text: Known for a copy that was de-identified earlier.
    """

    name: str
    read: Callable[[], bytes] | None = None
    uri: str | None = None
    size: int | None = None
    refusal: Refusal | None = None
    etag: str | None = None
    sha256: str | None = None
    earlier: Earlier | None = None
    frame: int | None = None
    packed: bool = False
    position: Position = START
    may_have_text: bool = False


@dataclass(frozen=True)
class Skipped:
    """Something in a folder or prefix that is no image and was not named by the user.

    Attributes:
        name: What the user calls it.
        position: Where a walk resumes after it.
        why: It is a system file or hidden; it is a result of Dermbatch; or it is no image.
    """

    name: str
    position: Position = START
    why: Literal["no_image", "sidecar", "own_result"] = "no_image"


@dataclass(frozen=True)
class LeftOut:
    """Something that the user's filters leave out; an archive left out as a whole counts as one."""

    name: str
    position: Position = START


Item = Candidate | Skipped | LeftOut


def refused(name: str, error: PermanentError, position: Position = START, size: int | None = None) -> Candidate:
    """A candidate that cannot be an input, for the reason of the error."""
    refusal = Refusal(reason=error.reason, message=str(error))
    return Candidate(name, size=size, refusal=refusal, position=position)


def unreadable(error: OSError) -> PermanentError:
    """The error for a file that the system does not let us read."""
    return PermanentError(f"the file cannot be read: {error.strerror or error}", reason="unreadable")


@dataclass(frozen=True)
class Walk:
    """A walk through inputs that can be resumed after any item.

    Attributes:
        inputs: What is walked, to tell one walk from another.
        filters: Which of it is taken.
        begin: Yields the items after a position, the same ones each time unless the inputs change.
    """

    inputs: tuple[str, ...]
    filters: Filters
    begin: Callable[[Position], Iterator[Item]]

    def __iter__(self) -> Iterator[Item]:
        return self.begin(START)
