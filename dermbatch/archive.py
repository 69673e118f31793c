"""Zip archives of strangers: their members one by one, within limits, or the reason why not.

What an archive's directory says is checked first, what its members really unpack to is checked while reading:
headers lie in zip bombs.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from dermbatch.errors import BadInput
from dermbatch.records import Refusal
from dermbatch.settings import ArchiveSettings

_CHUNK = 1 << 20
_SMALL = 1 << 20  # no bomb, whatever its ratio: a flat picture may shrink a thousandfold
_ENCRYPTED = 0x1
_READABLE = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA})
_MESSAGES = {
    "zip_slip": "the archive member's name leads out of the archive",
    "zip_encrypted": "the archive member is encrypted; make an archive without a password",
    "zip_corrupt": "the archive member is damaged or packed in an unknown way; make the archive anew",
    "zip_bomb": "the archive member unpacks to many times its size: a decompression bomb",
    "too_large": "the archive member is larger, unpacked, than DERMBATCH_ARCHIVE__MAX_MEMBER_BYTES allows",
    "zip_nested": "the archive holds another archive; unpack it or give it by itself",
}
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)


class Budget(Protocol):
    """What is left of an archive's allowance."""

    def take(self, count: int) -> None:
        """Spend bytes; raises `BadInput` ``zip_bomb`` where there are too few left."""


@dataclass
class _Budget:
    """Bytes that an archive may still unpack to, over all its members."""

    left: int

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise BadInput("the archive unpacks to more than is allowed", reason="zip_bomb")


@dataclass(frozen=True)
class Member:
    """A file in an archive, or why it is none.

    Attributes:
        name: Its path in the archive, with forward slashes; as the archive has it where it is refused.
        size: Bytes unpacked, as the archive's directory says.
        refusal: Why it cannot be read; `read` raises the same then.
    """

    name: str
    size: int
    refusal: Refusal | None
    _archive: zipfile.ZipFile | None = None
    _info: zipfile.ZipInfo | None = None
    _budget: Budget | None = None
    _max_ratio: float = 0

    def chunks(self) -> Iterator[bytes]:
        """The content in pieces of 1 MiB at most, checked while it is unpacked.

        Raises:
            BadInput: ``zip_bomb``, ``zip_corrupt`` (also for a wrong checksum, known only at the end), or this
                member's own refusal.
        """
        if self.refusal is not None:
            raise BadInput(self.refusal.message, reason=self.refusal.reason)
        if self._archive is None or self._info is None or self._budget is None:
            raise ValueError("a member without refusal belongs to an archive")
        if self._archive.fp is None:
            raise ValueError("members are read while their archive is walked: it is closed now")
        limit = max(self._info.compress_size * self._max_ratio, _SMALL)
        unpacked = 0
        try:
            with self._archive.open(self._info) as file:
                while chunk := file.read(_CHUNK):
                    unpacked += len(chunk)
                    if unpacked > limit:
                        raise BadInput(_MESSAGES["zip_bomb"], reason="zip_bomb")
                    self._budget.take(len(chunk))
                    yield chunk
        except _BROKEN as error:
            raise BadInput(_MESSAGES["zip_corrupt"], reason="zip_corrupt") from error

    def read(self) -> bytes:
        """The whole content; raises as `chunks` does."""
        return b"".join(self.chunks())


def members(path: Path, limits: ArchiveSettings) -> Iterator[Member]:
    """The members of a zip archive in its own order.

    Folders, hidden files and the ``__MACOSX`` folder are passed over. Members can be read until the iteration
    ends or is closed. Archives within archives are refused.

    Args:
        path: The archive on disk.
        limits: How many members, how many bytes, which ratio.

    Raises:
        BadInput: ``zip_corrupt`` where the file is no readable archive, ``zip_too_many_members``.
    """
    return members_of(path, limits)


def members_of(file: Path | IO[bytes] | bytes, limits: ArchiveSettings) -> Iterator[Member]:
    """As `members`, of a path, an open file or an archive's bytes."""
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        archive = zipfile.ZipFile(source)
    except FileNotFoundError:
        raise
    except _BROKEN as error:
        raise BadInput(
            "the zip archive cannot be opened; it is damaged or cut off", reason="zip_corrupt"
        ) from error
    with closing(archive):
        if len(archive.infolist()) > limits.max_members:
            raise BadInput(
                f"the archive has more than the {limits.max_members:,} members allowed; split it",
                reason="zip_too_many_members",
            )
        budget = _Budget(limits.max_bytes)
        for info in archive.infolist():
            name = _name(info)
            refusal = _refusal(info, name, limits)
            leads_out = refusal is not None and refusal.reason == "zip_slip"
            if not leads_out and (info.is_dir() or _is_passed_over(name)):
                continue
            yield Member(name, info.file_size, refusal, archive, info, budget, limits.max_ratio)


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


def _is_passed_over(name: str) -> bool:
    """What no one means to send: hidden files (``..`` is none of them), macOS's sidecars, Windows' thumbnails."""
    parts = [part for part in name.split("/") if part]
    hidden = any(part.startswith(".") and part not in (".", "..") for part in parts)
    return not parts or hidden or "__MACOSX" in parts or parts[-1] in ("Thumbs.db", "desktop.ini")


def _refusal(info: zipfile.ZipInfo, name: str, limits: ArchiveSettings) -> Refusal | None:
    """Why a member cannot be taken, by what the directory says of it; None where it can be tried."""
    reasons = {
        "zip_slip": name.startswith("/") or ".." in name.split("/") or (name[1:2] == ":" and name[:1].isalpha()),
        "zip_encrypted": bool(info.flag_bits & _ENCRYPTED),
        "zip_corrupt": info.compress_type not in _READABLE,
        "zip_bomb": info.file_size > max(info.compress_size * limits.max_ratio, _SMALL),
        "too_large": info.file_size > limits.max_member_bytes,
        "zip_nested": name.lower().endswith(".zip"),
    }
    for reason, holds in reasons.items():
        if holds:
            return Refusal(reason=reason, message=_MESSAGES[reason])
    return None
