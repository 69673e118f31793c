"""A member of an archive, and how much an archive may unpack to, with everything nested in it."""

from __future__ import annotations

import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from zipfile import BadZipFile

from dermbatch.archives.sidecars import is_sidecar
from dermbatch.errors import BadInput
from dermbatch.records.asked import Refusal

CHUNK = 1 << 20
SMALL = 1 << 20
"""Up to this many bytes are no bomb, whatever their ratio: a flat picture may shrink a thousandfold."""

MESSAGES = {
    "zip_slip": "the archive member's name leads out of the archive",
    "zip_encrypted": "the archive member is encrypted; make an archive without a password",
    "zip_corrupt": "the archive member is damaged or packed in an unknown way; create the archive again",
    "zip_bomb": "the archive member unpacks to many times its size: a decompression bomb",
    "too_large": "the archive member is larger, unpacked, than DERMBATCH_ARCHIVE__MAX_MEMBER_BYTES allows",
    "zip_nested": "archives are nested deeper than DERMBATCH_ARCHIVE__MAX_DEPTH allows; unpack the outer ones",
    "tar_special": "the archive member is a link, a device or a sparse file; pack the file itself",
}
BROKEN = (
    BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    NotImplementedError,
    RuntimeError,  # RecursionError among them
    MemoryError,
)
"""What the libraries raise on damaged archives."""


@dataclass
class Allowance:
    """What an outermost archive may still unpack to, over all its members and theirs.

    Attributes:
        bytes: Unpacked bytes left.
        members: Members left.
        most: Members that were allowed to begin with.
    """

    bytes: int
    members: int
    most: int

    def take(self, count: int) -> None:
        """Spend bytes; raises `BadInput` ``zip_bomb`` where there are too few left."""
        self.bytes -= count
        if self.bytes < 0:
            raise BadInput("the archive unpacks to more than is allowed", reason="zip_bomb")

    def count(self, members: int) -> None:
        """Spend members; raises `BadInput` ``zip_too_many_members`` where there are too few left."""
        if members > self.members:
            raise too_many(self.most)
        self.members -= members


@dataclass(frozen=True)
class ArchiveMember:
    """A file in an archive, or why it is none.

    Attributes:
        name: Its path in the archive, with forward slashes; exactly as the archive has it if the member is
            refused. The path of a nested archive's member begins with that archive's path.
        size: Unpacked bytes, as the archive states them.
        refusal: Why it cannot be read; `read` then raises the same error.
        within: Names of the nested archives that it is in, the outermost first.
        sidecar: Whether it is one of the files that nobody means to send.
    """

    name: str
    size: int
    refusal: Refusal | None = None
    within: tuple[str, ...] = ()
    sidecar: bool = False
    _unpack: Callable[[], Iterator[bytes]] | None = None

    def chunks(self) -> Iterator[bytes]:
        """The content in pieces of 1 MiB at most, checked while it is unpacked.

        Raises:
            BadInput: ``zip_bomb``, ``zip_corrupt`` (also for a wrong checksum, known only at the end), or this
                member's own refusal.
        """
        if self.refusal is not None:
            raise BadInput(self.refusal.message, reason=self.refusal.reason)
        if self._unpack is None:
            raise ValueError("a member without refusal belongs to an archive")
        try:
            yield from self._unpack()
        except ArchiveClosed:
            raise
        except BROKEN as error:
            raise BadInput(MESSAGES["zip_corrupt"], reason="zip_corrupt") from error

    def read(self) -> bytes:
        """The whole content; raises as `chunks` does."""
        return b"".join(self.chunks())


class ArchiveClosed(ValueError):
    """A member was read after the walk through its archive had ended: a defect of the caller's."""

    def __init__(self) -> None:
        super().__init__("members are read while their archive is walked: it is closed now")


def refusal(reason: str) -> Refusal:
    """A member's refusal for one of the reasons in :data:`MESSAGES`."""
    return Refusal(reason=reason, message=MESSAGES[reason])


def too_many(most: int) -> BadInput:
    """The error of an archive with too many members."""
    return BadInput(
        f"the archive has more than the {most:,} members allowed; split it", reason="zip_too_many_members"
    )


def cannot_be_opened() -> BadInput:
    """The error for a file that is no archive, or an incomplete one."""
    return BadInput(
        "the archive cannot be opened: it is damaged or cut off; copy it again, or create it again",
        reason="zip_corrupt",
    )


def admitted(
    member: ArchiveMember, is_folder: bool, reasons: dict[str, bool], most: int
) -> Iterator[ArchiveMember]:
    """A member, refused if it must be, or marked as a sidecar; none for a folder.

    Args:
        member: As its archive has it.
        is_folder: Whether it is one.
        reasons: The reasons of :data:`MESSAGES` that apply to it, of those that its format can tell.
        most: Bytes that it may unpack to.
    """
    name = member.name
    reasons = {"zip_slip": _leads_out(name), **reasons, "too_large": member.size > most}
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason != "zip_slip" and is_sidecar(name):
        if not is_folder:
            yield replace(member, sidecar=True)
    elif reason == "zip_slip" or not is_folder:
        yield replace(member, refusal=refusal(reason) if reason else None)


def _leads_out(name: str) -> bool:
    """Whether a name (in forward slashes) points out of the archive: ``../``, an absolute path, a drive."""
    return name.startswith("/") or ".." in name.split("/") or (name[1:2] == ":" and name[:1].isalpha())
