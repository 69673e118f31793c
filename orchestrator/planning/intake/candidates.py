"""What a walk through inputs comes to: candidates for images, and what is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from dermbatch.errors import PermanentError
from dermbatch.records.asked import Earlier, Filters, Position, Refusal

START = Position()


@dataclass(frozen=True)
class Candidate:
    """One input that may be an image. At least one of ``read``, ``uri`` and ``refusal`` is there.

    Attributes:
        name: What the user calls it.
        read: Reads the bytes, which have to be uploaded where there is no ``uri``; raises :class:`DermbatchError`.
        uri: The object or file that workers find it in.
        size: Bytes.
        refusal: Why it is no input.
        etag: Of the object that holds it.
        sha256: Of its bytes, where they were read and uploaded before.
        earlier: The result that this image's is to be compared with.
        frame: Which frame of a DICOM file of several, from 1; those of one file follow each other and share
            ``read``.
        packed: Whether it is in an archive, so that reading means unpacking.
        position: Where a walk goes on after it.
        may_have_text: Known of a copy that was de-identified earlier.
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
        position: Where a walk goes on after it.
        why: It is of a system's own, or hidden; it is a result of Dermbatch's; or it is no image.
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
    """What cannot be an input, for the reason that the error says."""
    refusal = Refusal(reason=error.reason, message=str(error))
    return Candidate(name, size=size, refusal=refusal, position=position)


def unreadable(error: OSError) -> PermanentError:
    """The error of a file that the system does not give."""
    return PermanentError(f"the file cannot be read: {error.strerror or error}", reason="unreadable")


@dataclass(frozen=True)
class Walk:
    """A way through inputs that can be gone again from any item on.

    Attributes:
        inputs: What is walked, so that another walk can be told from this one.
        filters: What of it.
        begin: The items after a position, the same ones each time as long as the inputs do not change.
    """

    inputs: tuple[str, ...]
    filters: Filters
    begin: Callable[[Position], Iterator[Item]]

    def __iter__(self) -> Iterator[Item]:
        return self.begin(START)
