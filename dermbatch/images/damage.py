"""Damage that the way to us does to whole files: taken for text, their bytes were changed all over."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder

from dermbatch.errors import BadInput

_ENOUGH = 8
"""Bytes that had to be changed by chance: once in 256 to this power."""
_SURELY = 64
_GLANCE = 65_536
"""Bytes of a file in which one that is no UTF-8 nearly always shows that."""
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]")
_SHARE = 0.05
"""Bytes above 127 of a file whose decoding as UTF-8 is no chance."""


def check_is_binary(data: bytes) -> None:
    """Refuse a file that was copied as if it were text: its picture may look whole, and be shifted.

    Raises:
        BadInput: ``corrupt``.
    """
    if _has_converted_lines(data):
        raise BadInput(
            "the file was copied as text: each line feed in its picture has become CR LF; copy it again in binary "
            "mode",
            reason="corrupt",
        )
    if _is_recoded(data):
        raise BadInput(
            "the file was copied as text: its bytes were rewritten as UTF-8; copy it again in binary mode",
            reason="corrupt",
        )


def _has_converted_lines(data: bytes) -> bool:
    """Whether there is no line feed without a carriage return, not only in lines of text."""
    seen, at = 0, data.find(b"\n")
    while at >= 0:
        if data[at - 1 : at] != b"\r":
            return False
        around = data[max(at - 2, 0) : at - 1] + data[at + 1 : at + 2]
        seen += len(_TEXT.findall(around)) < len(around)
        if seen == _SURELY:
            return True
        at = data.find(b"\n", at + 1)
    return seen >= _ENOUGH


def _is_recoded(data: bytes) -> bool:
    """Whether all bytes above 127 make up characters of UTF-8, and they are many."""
    try:
        getincrementaldecoder("utf-8")().decode(
            data[:_GLANCE]
        )  # as much memory as all characters need is taken first
        characters = data.decode()
    except UnicodeDecodeError:
        return False
    return len(data) - len(characters) > _SHARE * len(data)
