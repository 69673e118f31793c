"""Contents that a batch has already, on disk: a set of millions would not fit into a planner's memory."""

from __future__ import annotations

import re
from itertools import islice
from types import TracebackType
from typing import Self

from orchestrator.planning.scratch import scratch_database

_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


class Contents:
    """Index of the first entry with each fingerprint (:func:`dermbatch.layout.fingerprint`)."""

    def __init__(self) -> None:
        self._base = scratch_database(
            "CREATE TABLE contents (print BLOB PRIMARY KEY, place INTEGER, known INTEGER DEFAULT 0, "
            "content BLOB, object TEXT) WITHOUT ROWID"
        )
        # A single transaction that never ends: ending one would write its pages out, which nobody will read again.
        self._base.execute("BEGIN")
        self._indexed = False

    def first(
        self, fingerprint: str | None, index: int, *, content: str | None = None, object_name: str | None = None
    ) -> int | None:
        """The index of an earlier entry with this fingerprint; none where this is the first, which is then noted.

        Args:
            fingerprint: 32 hexadecimal digits; a missing one equals no other.
            index: Index of the entry that is asked about.
            content: Its content (:func:`dermbatch.layout.content`); the fingerprint where not given.
            object_name: Given instead if the content is not known: the object that would have to be read.
        """
        if fingerprint is None:
            return None
        key = bytes.fromhex(fingerprint)
        known_by = None if object_name is not None else bytes.fromhex(content or fingerprint)
        added = self._base.execute(
            "INSERT OR IGNORE INTO contents (print, place, content, object) VALUES (?, ?, ?, ?)",
            (key, index, known_by, object_name),
        )
        if added.rowcount:
            return None
        place = self._base.execute("SELECT place FROM contents WHERE print = ?", (key,)).fetchone()[0]
        return int(place) if place != index else None

    def mark(self, content: str) -> None:
        """Note that this content, if the batch has it, is known from before."""
        if not self._indexed:  # only estimates need it
            self._base.execute("CREATE INDEX by_content ON contents (content)")
            self._indexed = True
        if _FINGERPRINT.fullmatch(content):
            self._base.execute("UPDATE contents SET known = 1 WHERE content = ?", (bytes.fromhex(content),))

    def count(self, *, known: bool) -> int:
        """How many contents there are; with ``known``, only those that are marked."""
        counted = "SELECT count(*) FROM contents WHERE content IS NOT NULL AND known >= ?"
        return int(self._base.execute(counted, (known,)).fetchone()[0])

    def draw(self, most: int, *, known: bool) -> list[str]:
        """Up to ``most`` contents, drawn evenly; with ``known``, only from those that are marked."""
        step = -(-self.count(known=known) // most) or 1
        drawn = "SELECT content FROM contents WHERE content IS NOT NULL AND known >= ? ORDER BY content"
        return [row[0].hex() for row in islice(self._base.execute(drawn, (known,)), 0, None, step)]

    def unread(self, most: int) -> tuple[int, list[str]]:
        """How many objects have an unknown content, and up to ``most`` of them, drawn evenly."""
        where = "FROM contents WHERE object IS NOT NULL"
        count = int(self._base.execute(f"SELECT count(*) {where}").fetchone()[0])
        rows = self._base.execute(f"SELECT object {where} ORDER BY print")
        return count, [row[0] for row in islice(rows, 0, None, -(-count // most) or 1)]

    def close(self) -> None:
        """Give the file back."""
        self._base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
