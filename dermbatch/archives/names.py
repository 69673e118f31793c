"""Names in archives that do not state their encoding: read as people wrote them, as far as the letters tell.

Zip has a flag for UTF-8 (APPNOTE 4.4.4, bit 11) and a field for Unicode names (4.6.9); without either, names are
CP437 by the standard, and really whatever the system used that packed them.
"""

from __future__ import annotations

import struct
import unicodedata
import zlib
from collections.abc import Sequence

_ENCODINGS = ("cp932", "gb18030", "cp949", "big5", "cp866", "cp850", "cp1252", "cp1251", "cp437")
"""Tried in this order; of those that read equally well, the first is taken."""
_UNICODE_PATH = 0x7075


def encoding_of(names: Sequence[bytes]) -> str:
    """The encoding in which the names of one archive read best; UTF-8 if all of them are valid UTF-8.

    Letters of one script side by side read well; accented letters do among plain ones, signs never.

    Args:
        names: As they are written.
    """
    joined = b"/".join(name for name in names if not name.isascii())
    best, most = "cp437", float("-inf")
    for encoding in ("utf-8", *_ENCODINGS):
        try:
            text = joined.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8":
            return encoding
        if (worth := _worth(text, encoding)) > most:
            best, most = encoding, worth
    return best


def unicode_path(extra: bytes, name: bytes) -> str | None:
    """The name in the Unicode Path field of a zip member; none without the field, or if it is for another name.

    Args:
        extra: The member's extra fields.
        name: Its name as it is written.
    """
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        field = extra[at + 4 : at + 4 + size]
        if kind == _UNICODE_PATH and len(field) > 5 and struct.unpack_from("<L", field, 1)[0] == zlib.crc32(name):
            return field[5:].decode("utf-8", "backslashreplace")
        at += 4 + size
    return None


def _worth(text: str, encoding: str) -> float:
    """How well text reads, from -2 to 1: the mean of its letters that are not ASCII."""
    foreign = [place for place, letter in enumerate(text) if not letter.isascii()]
    if not foreign:
        return 1.0
    return sum(_letter(text, place, encoding) for place in foreign) / len(foreign)


def _letter(text: str, place: int, encoding: str) -> float:
    kind = _script(text[place])
    around = [text[at] for at in (place - 1, place + 1) if 0 <= at < len(text)]
    among_plain = any(letter.isascii() and letter.isalpha() for letter in around)
    alike = any(_script(letter) == kind for letter in around if not letter.isascii())
    match kind:
        case "LATIN":
            fits = text[place] in _EVERYDAY and not (text[place].isupper() and text[place - 1 : place].islower())
            return (1.0 if fits else 0.4) if among_plain else 0.2 if not alike else -1.0
        case "CYRILLIC":
            return -1.0 if among_plain else 0.8
        case "HIRAGANA" | "KATAKANA":
            return 0.5 if among_plain else 1.0
        case "CJK" | "HANGUL":
            # Hangul occupies a part of the codes of everyday Chinese, so it fits by chance less often.
            common = (0.95 if kind == "HANGUL" else 0.9) if _is_common(text[place], encoding) else 0.0
            return -1.0 if among_plain and not alike else common
        case "FULLWIDTH" | "IDEOGRAPHIC":
            return 0.3
        case _:
            return -2.0


_EVERYDAY = frozenset("äöüßÄÖÜéèêëàâáíóúñçøåæîïôûùãÉÈÀÅØÆÇÑÁ")
"""Accented letters of the languages whose systems wrote CP850, CP437 and Latin-1."""


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").split(" ")[0].split("-")[0]


_FREQUENT = {"cp932": (0x88, 0x97), "gb18030": (0xB0, 0xD7), "big5": (0xA4, 0xC6), "cp949": (0xB0, 0xC8)}
"""First bytes of the characters in everyday use: level 1 of JIS X 0208, GB 2312 and Big5; Hangul of KS X 1001."""


def _is_common(letter: str, encoding: str) -> bool:
    first, last = _FREQUENT.get(encoding, (1, 0))
    code = letter.encode(encoding)
    return first <= code[0] <= last and (encoding not in {"gb18030", "cp949"} or code[-1] >= 0xA1)
