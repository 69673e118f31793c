"""Contents that a batch has already, on disk: a set of millions would not fit a planner's memory."""

from __future__ import annotations

import re
import sqlite3
from itertools import islice
from types import TracebackType
from typing import Self

_CACHE_KIB = 16 * 1024
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


class Contents:
    """Index of the first entry with each content, by fingerprint (:func:`dermbatch.layout.fingerprint`).

    It lies in a temporary file of SQLite's, gone with the process.
    """

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)  # the empty name: a private file on disk
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.execute("PRAGMA synchronous = OFF")
        self._base.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._base.execute(
            "CREATE TABLE contents (print BLOB PRIMARY KEY, place INTEGER, known INTEGER DEFAULT 0) WITHOUT ROWID"
        )

    def first(self, fingerprint: str | None, index: int) -> int | None:
        """The index of an earlier entry with this content; none where this is the first, which is then noted.

        Args:
            fingerprint: 32 hexadecimal digits; none where the content is not known, which equals no other.
            index: Of the entry that is asked about.
        """
        if fingerprint is None:
            return None
        key = bytes.fromhex(fingerprint)
        added = self._base.execute("INSERT OR IGNORE INTO contents (print, place) VALUES (?, ?)", (key, index))
        if added.rowcount:
            return None
        place = self._base.execute("SELECT place FROM contents WHERE print = ?", (key,)).fetchone()[0]
        return int(place) if place != index else None

    def mark(self, fingerprint: str) -> None:
        """Note that this content, where the batch has it, is known from before."""
        if _FINGERPRINT.fullmatch(fingerprint):
            self._base.execute("UPDATE contents SET known = 1 WHERE print = ?", (bytes.fromhex(fingerprint),))

    def count(self, *, known: bool) -> int:
        """How many contents there are; with ``known``, of those that are marked."""
        return int(self._base.execute("SELECT count(*) FROM contents WHERE known >= ?", (known,)).fetchone()[0])

    def draw(self, most: int, *, known: bool) -> list[str]:
        """Up to ``most`` fingerprints, evenly drawn; with ``known``, of those that are marked."""
        step = -(-self.count(known=known) // most) or 1
        rows = self._base.execute("SELECT print FROM contents WHERE known >= ? ORDER BY print", (known,))
        return [row[0].hex() for row in islice(rows, 0, None, step)]

    def close(self) -> None:
        """Give the file back."""
        self._base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
