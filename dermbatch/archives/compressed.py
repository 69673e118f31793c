"""Compressed files: gzip, bzip2, xz, of a tar or of one file (``IM0001.dcm.gz``), by Python's own modules."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Any, cast

from dermbatch.archives.members import BROKEN, CHUNK, MESSAGES, SMALL, Allowance, ArchiveMember, cannot_be_opened
from dermbatch.errors import BadInput
from dermbatch.settings import ArchiveSettings

SUFFIXES = (".gz", ".bz2", ".xz", ".lzma")
"""Endings of one compressed file; which compression it really is, its bytes say."""

HEAD_BYTES = 1 << 20
"""Of a compressed file, enough to unpack its beginning: bzip2 gives nothing before a block of 900 kB."""

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x5d\x00\x00": "lzma"}
_XZ_MEMORY = 256 << 20  # bytes for unpacking: xz -9 needs 65 MiB, and a made one up to 4 GiB


def compression(head: bytes) -> str | None:
    """How a file is compressed, by its first bytes; none if it is not, or in a way that is not known here."""
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def opened(file: IO[bytes]) -> IO[bytes] | None:
    """The unpacked bytes of a compressed file, forwards only; none where it is not compressed."""
    file.seek(0)
    kind = compression(file.read(8))
    file.seek(0)
    match kind:
        case "gzip":
            return cast(IO[bytes], gzip.GzipFile(fileobj=file))
        case "bzip2":
            return cast(IO[bytes], bz2.BZ2File(file))
        case "xz" | "lzma":
            return cast(IO[bytes], io.BufferedReader(_Xz(file)))
        case _:
            return None


def unpacked_head(head: bytes, length: int) -> bytes | None:
    """The first bytes of what is compressed.

    Args:
        head: The first bytes of the file, as many as :data:`HEAD_BYTES`, or all.
        length: How many are wanted.

    Returns:
        None where it is not compressed, or damaged.
    """
    unpackers: dict[str | None, Any] = {
        "gzip": lambda: zlib.decompressobj(31),
        "bzip2": bz2.BZ2Decompressor,
        "xz": partial(lzma.LZMADecompressor, memlimit=_XZ_MEMORY),
        "lzma": partial(lzma.LZMADecompressor, memlimit=_XZ_MEMORY),
    }
    make = unpackers.get(compression(head))
    if make is None:
        return None
    try:
        return bytes(make().decompress(head, length))
    except BROKEN:
        return None


def single_member(
    file: IO[bytes], name: str, limits: ArchiveSettings, allowance: Allowance
) -> Iterator[ArchiveMember]:
    """The one file inside a compressed file, named after it without its ending; it can be read once.

    Raises:
        BadInput: ``zip_corrupt`` if it is not compressed at all.
    """
    allowance.count(1)
    packed = file.seek(0, io.SEEK_END)
    inside = opened(file)
    if inside is None:
        raise cannot_be_opened()
    path = PurePosixPath(name)
    called = path.name[: -len(path.suffix)] if path.suffix.lower() in SUFFIXES else path.name
    most = max(packed * limits.max_ratio, SMALL)
    yield ArchiveMember(
        called or path.name, 0, _unpack=partial(_chunks, inside, most, limits.max_member_bytes, allowance)
    )


def _chunks(inside: IO[bytes], most: float, most_bytes: int, allowance: Allowance) -> Iterator[bytes]:
    unpacked = 0
    while chunk := inside.read(CHUNK):
        unpacked += len(chunk)
        if unpacked > most_bytes:
            raise BadInput(MESSAGES["too_large"], reason="too_large")
        if unpacked > most:
            raise BadInput(MESSAGES["zip_bomb"], reason="zip_bomb")
        allowance.take(len(chunk))
        yield chunk


class _Xz(io.RawIOBase):
    """The unpacked bytes of all streams of an xz or lzma file, with the memory limit that ``lzma.open`` lacks."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpacker = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            fed = b""
            if self._unpacker.eof:
                fed = self._unpacker.unused_data.lstrip(b"\0") or self._file.read(CHUNK).lstrip(b"\0")
                if not fed:
                    return 0
                self._unpacker = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
            elif self._unpacker.needs_input and not (fed := self._file.read(CHUNK)):
                raise EOFError("the file ends before its stream does")
            data = self._unpacker.decompress(fed, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
