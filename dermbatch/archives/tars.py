"""Untrusted tar archives, plain or compressed: their members one by one, in a single pass.

Links, devices and sparse files are refused, never followed or made; nothing is written to disk by a member's name.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import IO, Any, cast

from dermbatch.archives.compressed import opened
from dermbatch.archives.members import (
    BROKEN,
    CHUNK,
    SMALL,
    Allowance,
    ArchiveClosed,
    ArchiveMember,
    admitted,
    cannot_be_opened,
)
from dermbatch.archives.names import encoding_of
from dermbatch.errors import BadInput
from dermbatch.settings import ArchiveSettings

_HEADERS = 64 << 10
"""Bytes of headers that one member may have: longer names and maps are attempts to fill the memory."""


def looks_like_tar(head: bytes) -> bool:
    """Whether the first 512 bytes are a tar header, judged by its checksum; old tars have no other mark."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


def tar_members(file: IO[bytes], limits: ArchiveSettings, allowance: Allowance) -> Iterator[ArchiveMember]:
    """The members of a tar archive; each can be read once, before the next one is asked for.

    Args:
        file: The archive, seekable, plain or compressed.
        limits: Limits of one member.
        allowance: Allowance for all members together.

    Raises:
        BadInput: ``zip_corrupt`` if the archive, or what follows the last member given, cannot be read;
            ``zip_bomb``; ``zip_too_many_members``.
    """
    packed = _Forward(file, limits.max_ratio, allowance)
    try:
        archive = tarfile.TarFile(fileobj=cast(IO[bytes], packed), encoding="utf-8", errors="surrogateescape")
    except BROKEN as error:
        raise cannot_be_opened() from error
    with closing(archive):
        while (info := _next(archive, packed)) is not None:
            allowance.count(1)
            raw = info.name.encode("utf-8", "surrogateescape")
            name = raw.decode(encoding_of([raw]), "backslashreplace").replace("\\", "/")
            reasons = {
                "zip_corrupt": info.size < 0,
                "tar_special": not (info.isreg() or info.isdir()) or info.issparse(),
            }
            member = ArchiveMember(name, info.size, _unpack=partial(_chunks, archive, info, packed))
            yield from admitted(member, info.isdir(), reasons, limits.max_member_bytes)


def _next(archive: Any, packed: _Forward) -> tarfile.TarInfo | None:
    """The next member; none at the archive's end."""
    packed.allowed = _HEADERS
    try:
        info: tarfile.TarInfo | None = archive.next()
    except BROKEN as error:
        raise _cut() from error
    archive.members.clear()  # the library keeps them all, to look up link targets
    if info is None and (not packed.last or any(packed.last)):
        # The library takes any unreadable header for the end; the end is a block of zeros (POSIX pax, "ustar").
        raise _cut()
    return info


def _cut() -> BadInput:
    return BadInput(
        "the archive is damaged or cut off: what follows is lost; copy it again, or create it again",
        reason="zip_corrupt",
    )


def _chunks(archive: Any, info: tarfile.TarInfo, packed: _Forward) -> Iterator[bytes]:
    if archive.closed:
        raise ArchiveClosed
    packed.allowed = info.size
    with archive.extractfile(info) as file:
        while chunk := file.read(CHUNK):
            yield chunk


class _Forward:
    """A tar's bytes, unpacked if compressed, which can only be read forwards.

    That way no header can cause a loop, fill the memory, or unpack without end.

    Attributes:
        allowed: Bytes that may still be read: of headers, or of the member's content.
        last: What was read last.
    """

    def __init__(self, file: IO[bytes], max_ratio: float, allowance: Allowance) -> None:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        unpacked = opened(file)
        self._is_packed = unpacked is not None
        self._file = file if unpacked is None else unpacked
        self._most = max(size * max_ratio, SMALL)
        self._allowance = allowance
        self._at = 0
        self.allowed = _HEADERS
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.allowed:
            raise cannot_be_opened()
        self.allowed -= size
        self.last = self._read(size)
        return self.last

    def seek(self, place: int) -> int:
        if place < self._at:
            raise cannot_be_opened()
        if not self._is_packed:
            self._at = self._file.seek(place)
        while self._at < place and self._read(min(place - self._at, CHUNK)):
            pass
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing: whoever opened the file closes it."""

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._at += len(data)
        self._allowance.take(len(data))
        if self._at > self._most:
            raise BadInput("the archive unpacks to many times its size", reason="zip_bomb")
        return data
