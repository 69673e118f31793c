"""Untrusted zip archives: their members one by one.

The archive's directory is checked first; what members really unpack to is checked while reading, because the
headers of zip bombs lie.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise
from typing import IO, cast

from dermbatch.archives.members import (
    BROKEN,
    CHUNK,
    MESSAGES,
    SMALL,
    Allowance,
    ArchiveClosed,
    ArchiveMember,
    admitted,
    cannot_be_opened,
    too_many,
)
from dermbatch.archives.names import encoding_of, unicode_path
from dermbatch.errors import BadInput
from dermbatch.settings import ArchiveSettings

_ENCRYPTED = 0x1
_UTF8 = 0x800
_READABLE = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA})
_DIRECTORY_BYTES = 256  # of the directory for a member, names and extra fields among them
_LEAST_READ = 4 << 20
_HEADER_BYTES = 30  # of a member, before its name (APPNOTE 4.3.7)


def zip_members(file: IO[bytes], limits: ArchiveSettings, allowance: Allowance) -> Iterator[ArchiveMember]:
    """The members of a zip archive in its own order; they can be read until the iteration ends.

    Args:
        file: The archive, seekable.
        limits: Limits of one member.
        allowance: Allowance for all members together.

    Raises:
        BadInput: ``zip_corrupt`` if the file is no readable archive, ``zip_too_many_members``, ``zip_bomb``
            where members share their bytes.
    """
    try:
        archive = zipfile.ZipFile(cast(IO[bytes], _Bounded(file, limits.max_members)))
    except BROKEN as error:
        raise cannot_be_opened() from error
    with closing(archive):
        infos = archive.infolist()
        allowance.count(len(infos))
        _check_apart(infos)
        named = _names(infos)
        for info in infos:
            reasons = {
                "zip_encrypted": bool(info.flag_bits & _ENCRYPTED),
                "zip_corrupt": info.compress_type not in _READABLE,
                "zip_bomb": info.file_size > max(info.compress_size * limits.max_ratio, SMALL),
            }
            unpack = partial(_chunks, archive, info, allowance, limits.max_ratio)
            member = ArchiveMember(named(info), info.file_size, _unpack=unpack)
            yield from admitted(member, info.is_dir(), reasons, limits.max_member_bytes)


def _check_apart(infos: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive whose members share bytes: a small one then unpacks to any size (Fifield 2019).

    It is refused as a whole: it may have a member for every 46 bytes, and each would be a failure of its own.
    """
    places = sorted(
        (info.header_offset, info.header_offset + _HEADER_BYTES + info.compress_size) for info in infos
    )
    for (_, end), (start, _) in pairwise(places):
        if start < end:
            raise BadInput(
                "members of the archive share their bytes, which only zip bombs do; unpack it yourself if you "
                "trust it",
                reason="zip_bomb",
            )


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


def _raw(info: zipfile.ZipInfo) -> bytes:
    """A member's name as it is written; the library has read it as UTF-8 or CP437, depending on its flag."""
    written = info.orig_filename
    return written.encode("utf-8" if info.flag_bits & _UTF8 else "cp437", "surrogateescape")


def _names(infos: list[zipfile.ZipInfo]) -> Callable[[zipfile.ZipInfo], str]:
    """The names of members, with forward slashes; all names of one archive are assumed to have one encoding."""
    encoding = encoding_of([_raw(info) for info in infos if not info.flag_bits & _UTF8])

    def name(info: zipfile.ZipInfo) -> str:
        raw = _raw(info)
        decoded = unicode_path(info.extra, raw)
        if decoded is None:
            decoded = info.filename if info.flag_bits & _UTF8 else raw.decode(encoding, "backslashreplace")
        return decoded.partition("\0")[0].replace("\\", "/")

    return name
