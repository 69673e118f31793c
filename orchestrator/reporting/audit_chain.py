"""Checks that the audit log is as it was written: no line changed, removed or inserted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dermbatch.records import chain


@dataclass(frozen=True)
class FileCheck:
    """The state of a file of the log.

    Attributes:
        name: Name of the file.
        lines: Number of valid lines, one after the other.
        before: Number of lines before them, of a version without chains.
        wrong: What is wrong, with the line number; empty if nothing is.
        digest: Digest of the last line: noted elsewhere, it proves later that none of these was changed.
        known: Whether a given digest is that of one of its lines.
    """

    name: str
    lines: int
    before: int
    wrong: str
    digest: str
    known: bool


def check(folder: Path, known: str | None = None) -> Iterator[FileCheck]:
    """Check all files; those of one program and machine in the order of days.

    Args:
        folder: With the files of all programs.
        known: A digest that was noted at an earlier time.
    """
    programs: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("audit-*-*.jsonl")):
        programs[path.name.split("-", 2)[2]].append(path)
    for paths in programs.values():
        last: str | None = None
        for path in paths:
            checked = _check(path, last, known)
            yield checked
            last = checked.digest


def _check(path: Path, last: str | None, known: str | None) -> FileCheck:
    """Check one file; ``last`` is the digest that it has to follow, none for the first file kept."""
    at = before = held = 0
    digest, wrong, found = "", "", False
    with path.open("rb") as file:
        for at, line in enumerate(file, 1):
            if not digest:
                digest = chain.followed(line) or ""
                if not digest and chain.digest_of(line) is None and last is None:
                    before += 1
                    continue
                if not digest:
                    wrong = f"line {at} does not begin a chain"
                    break
                if last and digest != last:
                    wrong = f"line {at} does not follow the last line of the file before"
                    break
            if not chain.holds(line, digest):
                wrong = f"line {at} is not what was written there, or lines before it are gone"
                break
            digest, held = chain.digest_of(line) or "", held + 1
            found = found or digest == known
    return FileCheck(path.name, held, before, wrong, digest or last or "", found)
