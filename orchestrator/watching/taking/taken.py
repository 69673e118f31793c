"""What was taken in already, on disk: a set of millions would not fit a process's memory."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable

from dermbatch.store import ObjectInfo

_CACHE_KIB = 16 * 1024


def origin_of(bucket: str, info: ObjectInfo) -> str:
    """What tells an object with its content from all others: 32 hexadecimal digits.

    The same content under the same key has the same origin, as long as its ETag is the same; other content has
    another one.
    """
    version = info.etag if info.etag is not None else info.modified
    said = f"{bucket}/{info.key}\n{version}\n{info.size}"
    return hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()[:32]


class Taken:
    """Origins of objects that were taken in, and of those that hold no image.

    It lies in a temporary file of SQLite's, gone with the process: what lasts are the manifests.
    """

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)  # the empty name: a private file on disk
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
            self._base.execute(f"PRAGMA {pragma}")
        self._base.execute("CREATE TABLE origins (origin BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, origins: Iterable[str]) -> None:
        """Note origins, be they noted already or not."""
        rows = ((bytes.fromhex(origin),) for origin in origins)
        self._base.executemany("INSERT OR IGNORE INTO origins VALUES (?)", rows)

    def __contains__(self, origin: str) -> bool:
        found = self._base.execute("SELECT 1 FROM origins WHERE origin = ?", (bytes.fromhex(origin),))
        return found.fetchone() is not None

    def close(self) -> None:
        """Give the file back."""
        self._base.close()
