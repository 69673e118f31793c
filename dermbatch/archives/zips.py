"""Zip archives of strangers: their members one by one.

What an archive's directory says is checked first, what its members really unpack to is checked while reading:
headers lie in zip bombs.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import IO, cast

from dermbatch.archives.members import (
    BROKEN,
    CHUNK,
    MESSAGES,
    SMALL,
    Allowance,
    ArchiveClosed,
    Member,
    admitted,
    cannot_be_opened,
    too_many,
)
from dermbatch.errors import BadInput
from dermbatch.settings import ArchiveSettings

_ENCRYPTED = 0x1
_READABLE = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA})
_DIRECTORY_BYTES = 256  # of the directory for a member, names and extra fields among them
_LEAST_READ = 4 << 20


def zip_members(file: IO[bytes], limits: ArchiveSettings, allowance: Allowance) -> Iterator[Member]:
    """The members of a zip archive in its own order; they can be read until the iteration ends.

    Args:
        file: The archive, seekable.
        limits: Of one member.
        allowance: Of all together.

    Raises:
        BadInput: ``zip_corrupt`` where the file is no readable archive, ``zip_too_many_members``.
    """
    try:
        archive = zipfile.ZipFile(cast(IO[bytes], _Bounded(file, limits.max_members)))
    except BROKEN as error:
        raise cannot_be_opened() from error
    with closing(archive):
        infos = archive.infolist()
        allowance.count(len(infos))
        for info in infos:
            reasons = {
                "zip_encrypted": bool(info.flag_bits & _ENCRYPTED),
                "zip_corrupt": info.compress_type not in _READABLE,
                "zip_bomb": info.file_size > max(info.compress_size * limits.max_ratio, SMALL),
            }
            unpack = partial(_chunks, archive, info, allowance, limits.max_ratio)
            member = Member(_name(info), info.file_size, _unpack=unpack)
            yield from admitted(member, info.is_dir(), reasons, limits.max_member_bytes)


class _Bounded:
    """A file that refuses to read a whole directory of millions of members into memory."""

    def __init__(self, file: IO[bytes], members: int) -> None:
        self._file = file
        self._members = members
        self._most = max(members * _DIRECTORY_BYTES, _LEAST_READ)
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size > self._most:
            raise too_many(self._members)
        return self._file.read(size)

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing: whoever opened the file closes it."""


def _chunks(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, allowance: Allowance, max_ratio: float
) -> Iterator[bytes]:
    if archive.fp is None:
        raise ArchiveClosed
    limit = max(info.compress_size * max_ratio, SMALL)
    unpacked = 0
    with archive.open(info) as file:
        while chunk := file.read(CHUNK):
            unpacked += len(chunk)
            if unpacked > limit:
                raise BadInput(MESSAGES["zip_bomb"], reason="zip_bomb")
            allowance.take(len(chunk))
            yield chunk


def _name(info: zipfile.ZipInfo) -> str:
    """A member's name as text, in forward slashes.

    Names without the UTF-8 flag are CP437 by the standard, but UTF-8 in most archives made on Linux and macOS.
    """
    name = info.filename
    if not info.flag_bits & 0x800:
        try:
            name = name.encode("cp437").decode("utf-8")
        except (UnicodeEncodeError, UnicodeDecodeError):
            name = info.filename
    return name.replace("\\", "/")
