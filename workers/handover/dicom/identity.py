"""UIDs that are made of what they name, so that a repeat gives the same objects (PS3.5, annex B.2)."""

from __future__ import annotations

import re
import uuid

_OURS = uuid.UUID("7d0c1b1e-43a5-5f0a-9a38-5c2f64a4f1ce")
"""Namespace of all names that UIDs are made of here; never to be changed."""

_VALID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
_LONGEST = 64


def uid_of(*names: str) -> str:
    """A UID under ``2.25.`` that depends on nothing but these names.

    Args:
        names: What it stands for, such as a kind and the UID and keys that it was made from.
    """
    return f"2.25.{uuid.uuid5(_OURS, chr(31).join(names)).int}"


def valid_uid(said: str, *otherwise: str) -> str:
    """A UID as the standard wants it (PS3.5, section 9.1), whatever an exporter wrote.

    Args:
        said: The value as it was found; quote marks and padding around it are taken off.
        otherwise: What it is made of where nothing was said. Where something malformed was, the UID is made of
            that, so that two images of one study stay in one study.
    """
    plain = said.strip(" \"'\0\t\r\n")
    if len(plain) <= _LONGEST and _VALID.fullmatch(plain):
        return plain
    return uid_of("malformed", plain) if plain else uid_of("missing", *otherwise)
