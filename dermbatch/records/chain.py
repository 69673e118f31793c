"""A chain of lines: each ends with a digest of itself and of the line before, so changes are noticed.

``{...,"chain":"<SHA-256 of the digest before and of the line without it>"}``. The first line of a file has
``after``: the digest of the previous file's last line. A chain has no secret: whoever may write the files can make
a whole new one, which only digests noted elsewhere reveal.
"""

from __future__ import annotations

import hashlib
import re

START = "0" * 64
"""What the very first line follows."""

_END = re.compile(rb',"chain":"([0-9a-f]{64})"\}\n?\Z')
_AFTER = re.compile(rb'^\{"after":"([0-9a-f]{64})",')

TAIL = len(b',"chain":""}\n') + 64
"""Bytes at the end of a file that identify its last line."""


def linked(text: bytes, before: str, *, first: bool) -> bytes:
    """A line of the chain, with its line end.

    Args:
        text: A JSON object that is not empty, without blanks around it.
        before: Digest of the line before.
        first: Whether it is the first line in its file.
    """
    if first:
        text = b'{"after":"%s",' % before.encode() + text[1:]
    return text[:-1] + b',"chain":"%s"}\n' % _digest(before, text).encode()


def digest_of(end: bytes) -> str | None:
    """The digest at the end of the last line in these bytes; none if it is not a line of a chain."""
    found = _END.search(end)
    return found[1].decode() if found else None


def followed(line: bytes) -> str | None:
    """The digest that the first line of a file says it follows."""
    found = _AFTER.match(line)
    return found[1].decode() if found else None


def holds(line: bytes, before: str) -> bool:
    """Whether a line is the one that was written after the line with this digest."""
    found = _END.search(line)
    return found is not None and _digest(before, line[: found.start()] + b"}") == found[1].decode()


def _digest(before: str, text: bytes) -> str:
    return hashlib.sha256(before.encode() + text).hexdigest()
