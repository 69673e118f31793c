"""A tree of folders, file by file in an order that a walk can go on in: files of a folder, then its folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote_to_bytes

from dermbatch.archives.sidecars import is_sidecar_folder

Kind = Literal["file", "link", "sidecar"]
_Files = list[tuple[str, Kind]]


@dataclass(frozen=True)
class Entry:
    """Something in a tree that is not walked into.

    Attributes:
        path: Where it is.
        below: Its path below the tree's root, with slashes.
        place: The same as plain ASCII, whatever the bytes on disk are: what a walk goes on after.
        kind: A file (or what else is not a folder), a link to a folder (it may lead back up, and round), a folder
            of which nothing is meant, or one that cannot be read.
        why: Of the last, what the system says.
    """

    path: Path
    below: str
    place: str
    kind: Kind | Literal["closed"] = "file"
    why: str = ""


def leaves(
    root: Path, *, after: str | None = None, again: bool = False, leave_out: Path | None = None
) -> Iterator[Entry]:
    """Everything in a tree. Hidden folders, and those of systems' own, are not walked into.

    Names of one folder are in memory at a time, and those of the folders above it.

    Args:
        root: Where it begins.
        after: The ``place`` of the leaf to go on after, from the beginning where not given.
        again: Whether that leaf comes once more itself.
        leave_out: A folder not to walk into.
    """
    passed = tuple(os.fsdecode(unquote_to_bytes(part)) for part in after.split("/")) if after is not None else ()
    yield from _below(root, (), passed, again, leave_out)


def _below(
    folder: Path, parts: tuple[str, ...], passed: tuple[str, ...], again: bool, leave_out: Path | None
) -> Iterator[Entry]:
    try:
        files, folders = _behind(*_listed(folder), passed, again)
    except OSError as error:
        if passed != ("",):
            yield Entry(folder, "/".join(parts), _place((*parts, "")), "closed", str(error.strerror))
        return
    for name, kind in files:
        yield Entry(folder / name, "/".join((*parts, name)), _place((*parts, name)), kind)
    for name in folders:
        if folder / name != leave_out:
            inside = passed[1:] if passed[:1] == (name,) else ()
            yield from _below(folder / name, (*parts, name), inside, again, leave_out)


def _behind(files: _Files, folders: list[str], passed: tuple[str, ...], again: bool) -> tuple[_Files, list[str]]:
    """What of a folder is still to come; the folder that was begun among it."""
    if len(passed) > 1:
        return [], [name for name in folders if name >= passed[0]]
    return [file for file in files if (file[0],) > passed or (again and (file[0],) == passed)], folders


def _listed(folder: Path) -> tuple[_Files, list[str]]:
    """What is in a folder, sorted by name: what is not walked into, folders that are."""
    files: _Files = []
    folders: list[str] = []
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_symlink():
                files.append((entry.name, "link" if Path(entry.path).is_dir() else "file"))
            elif not entry.is_dir(follow_symlinks=False):
                files.append((entry.name, "file"))
            elif is_sidecar_folder(entry.name):
                files.append((entry.name, "sidecar"))
            else:
                folders.append(entry.name)
    return sorted(files), sorted(folders)


def _place(parts: tuple[str, ...]) -> str:
    return "/".join(quote(os.fsencode(part), safe=" ") for part in parts)
