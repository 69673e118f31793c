"""UIDs and UUIDs that depend on nothing but what they name, so that a repeat makes the same."""

from __future__ import annotations

import uuid

_OURS = uuid.UUID("7d0c1b1e-43a5-5f0a-9a38-5c2f64a4f1ce")
"""Namespace of all names that UIDs are made of here; never to be changed."""


def uuid_of(*names: str) -> uuid.UUID:
    """The UUID (version 5, RFC 9562, 5.5) of these names.

    Args:
        names: What it stands for, such as a kind and the UID and keys that it was made from.
    """
    return uuid.uuid5(_OURS, chr(31).join(names))


def uid_of(*names: str) -> str:
    """The same as a UID under ``2.25.`` (PS3.5, annex B.2)."""
    return f"2.25.{uuid_of(*names).int}"
