"""Searching the audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def accesses(folder: Path, objects: tuple[str, ...] = (), since: datetime | None = None) -> Iterator[Line]:
    """Lines of the audit log; those of one day are in order of time.

    Args:
        folder: Folder with the files of all programs.
        objects: Names, or beginnings of names, of accessed objects or of the targets of copies; empty: all.
        since: Only accesses at this time, with a zone, or later.

    Yields:
        The lines. Those cut off by a full disk are skipped.
    """
    days = sorted({path.name.split("-")[1] for path in folder.glob("audit-*-*.jsonl")})
    first = f"{since.astimezone(UTC):%Y%m%d}" if since is not None else ""
    for day in days:
        if day < first:
            continue
        lines = [line for path in sorted(folder.glob(f"audit-{day}-*.jsonl")) for line in _lines(path)]
        for line in sorted(lines, key=lambda line: str(line["at"])):
            if since is not None and datetime.fromisoformat(line["at"]) < since:
                continue
            if not objects or any(str(line.get(part, "")).startswith(objects) for part in ("object", "to")):
                yield line


def _lines(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and {"at", "action", "object"} <= line.keys():
                yield line
