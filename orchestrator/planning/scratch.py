"""A scratch database on disk, for sets of millions that would not fit into a process's memory."""

from __future__ import annotations

import sqlite3

_CACHE_KIB = 16 * 1024


def scratch_database(table: str) -> sqlite3.Connection:
    """A private database in a temporary SQLite file that disappears with the process; 16 MiB of it in memory.

    Args:
        table: The statement that makes its table.
    """
    base = sqlite3.connect("", isolation_level=None)  # the empty name: a private file on disk
    for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
        base.execute(f"PRAGMA {pragma}")
    base.execute(table)
    return base
