"""Untrusted archives (zip, tar, a compressed file): their members one by one, within limits, or why not.

Nested archives are opened too, down to a set depth; everything inside an outermost archive shares its limits.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO

from dermbatch.archives.compressed import HEAD_BYTES, SUFFIXES, compression, single_member, unpacked_head
from dermbatch.archives.members import Allowance, ArchiveMember, refusal
from dermbatch.archives.tars import looks_like_tar, tar_members
from dermbatch.archives.zips import zip_members
from dermbatch.errors import BadInput
from dermbatch.records.asked import Refusal
from dermbatch.settings import ArchiveSettings

__all__ = ["ArchiveMember", "is_archive", "is_archive_name", "is_compressed_name", "members"]

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tb2", ".tar.xz", ".txz", ".tar.lzma", ".tlz")
_ENDINGS = (".zip", *_TARS)
_BLOCK = 512


def is_archive_name(name: str) -> bool:
    """Whether a name ends like the name of an archive."""
    return name.lower().endswith(_ENDINGS)


def is_compressed_name(name: str) -> bool:
    """Whether a name ends like that of a single compressed file, such as ``IM0001.dcm.gz``."""
    return not is_archive_name(name) and name.lower().endswith(SUFFIXES)


def is_archive(head: bytes) -> bool:
    """Whether the first 512 bytes are an archive's; a gzipped file may hold anything, so it does not count."""
    return head.startswith(b"PK\x03\x04") or (head[257:262] == b"ustar" and looks_like_tar(head))


def members(
    file: Path | IO[bytes] | bytes, limits: ArchiveSettings, *, name: str = "", sidecars: bool = False
) -> Iterator[ArchiveMember]:
    """The members of an archive in its own order; those of a nested archive come where that archive lies.

    Folders are passed over, and so are sidecars (:mod:`dermbatch.archives.sidecars`). A member can be read before
    the next one is asked for.

    Args:
        file: The archive: a path, an open file, or its bytes.
        limits: How many members, how many bytes, which ratio, how deep.
        name: Name of the archive; the content of a compressed file that is no tar is named after it.
        sidecars: Whether sidecars are reported; they must not be read.

    Raises:
        BadInput: ``zip_corrupt`` if the file is no readable archive, ``zip_too_many_members``, ``zip_bomb``.
    """
    with ExitStack() as opened:
        if isinstance(file, Path):
            file = opened.enter_context(file.open("rb"))
        elif isinstance(file, bytes):
            file = io.BytesIO(file)
        allowance = Allowance(limits.max_bytes, limits.max_members, limits.max_members)
        found = _members(file, name, limits, allowance, 0)
        yield from (member for member in found if sidecars or not member.sidecar)


def _read(file: IO[bytes], name: str, limits: ArchiveSettings, allowance: Allowance) -> Iterator[ArchiveMember]:
    """Members of one archive, by what it really is."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    inside = unpacked_head(head, _BLOCK)
    if looks_like_tar(head) or (inside is not None and (looks_like_tar(inside) or not is_compressed_name(name))):
        return tar_members(file, limits, allowance)
    if is_compressed_name(name):
        return single_member(file, name, limits, allowance)
    return tar_members(file, limits, allowance) if compression(head) else zip_members(file, limits, allowance)


def _members(
    file: IO[bytes], name: str, limits: ArchiveSettings, allowance: Allowance, depth: int
) -> Iterator[ArchiveMember]:
    """Members of an archive that lies ``depth`` archives deep."""
    for member in _read(file, name, limits, allowance):
        nested = is_archive_name(member.name) or is_compressed_name(member.name)
        if member.refusal is not None or member.sidecar or not nested:
            yield member
        elif depth == limits.max_depth:
            yield replace(member, refusal=refusal(reason="zip_nested"))
        else:
            yield from _nested(member, limits, allowance, depth + 1)


def _nested(
    archive: ArchiveMember, limits: ArchiveSettings, allowance: Allowance, depth: int
) -> Iterator[ArchiveMember]:
    """Members of a nested archive; if it cannot be read to its end, it comes last itself, with the reason."""
    try:
        with tempfile.TemporaryFile() as file:
            for chunk in archive.chunks():
                file.write(chunk)
            for member in _members(file, archive.name, limits, allowance, depth):
                inside = tuple(f"{archive.name}/{name}" for name in member.within)
                yield replace(member, name=f"{archive.name}/{member.name}", within=(archive.name, *inside))
    except BadInput as error:
        yield replace(archive, refusal=Refusal(reason=error.reason, message=str(error)))
