"""Folders of the object store, as users write them in files: whole ones, so that no name's beginning is enough."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, StrictStr

from dermbatch.store import split_uri

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


def folder(uri: str) -> str:
    """``s3://bucket/`` or ``s3://bucket/folder/``: so ``clinic-1`` does not take what is of ``clinic-10``.

    Raises:
        ValueError: Where it is no such URI, or a pattern.
    """
    bucket, key = split_uri(uri)
    if _BUCKET.fullmatch(bucket) is None:
        raise ValueError(f"{bucket!r} is no bucket's name")
    if any(character in key for character in "*?\r\n"):
        raise ValueError(f"{uri!r} is no plain prefix; patterns go into include and exclude")
    return f"s3://{bucket}/{key}{'/' if key and not key.endswith('/') else ''}"


Folder = Annotated[StrictStr, AfterValidator(folder)]
