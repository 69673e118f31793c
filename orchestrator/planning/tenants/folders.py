"""Folders of the object store as users write them: always whole, so that a name's prefix never matches."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, StrictStr

from dermbatch.store import split_uri

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


def folder(uri: str) -> str:
    """``s3://bucket/`` or ``s3://bucket/folder/``: so ``clinic-1`` never matches ``clinic-10``.

    Raises:
        ValueError: If it is no such URI, or a pattern.
    """
    bucket, key = split_uri(uri)
    if _BUCKET.fullmatch(bucket) is None:
        raise ValueError(f"{bucket!r} is not a bucket name")
    if any(character in key for character in "*?\r\n"):
        raise ValueError(f"{uri!r} is not a plain prefix; put patterns into include and exclude")
    return f"s3://{bucket}/{key}{'/' if key and not key.endswith('/') else ''}"


Folder = Annotated[StrictStr, AfterValidator(folder)]
