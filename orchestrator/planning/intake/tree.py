"""A tree of folders, file by file, in an order that a walk can resume in: files first, then subfolders."""

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
class TreeLeaf:
    """Something in a tree that is not walked into.

    Attributes:
        path: Where it is.
        below: Its path below the tree's root, with slashes.
        place: The same as plain ASCII, whatever the bytes on disk: the position that a walk resumes after.
        kind: A file (or anything else but a folder), a link to a folder (it may lead back up, in a circle), a
            folder to be skipped, or one that cannot be read.
        why: For the last kind, what the system says.
    """

    path: Path
    below: str
    place: str
    kind: Kind | Literal["closed"] = "file"
    why: str = ""


def leaves(
    root: Path, *, after: str | None = None, again: bool = False, leave_out: Path | None = None
) -> Iterator[TreeLeaf]:
    """Everything in a tree, without hidden and system folders.

    Only the names of one folder, and of the folders above it, are in memory at a time.

    Args:
        root: Where it begins.
        after: The ``place`` of the leaf to resume after; from the beginning if none is given.
        again: Whether that leaf is repeated.
        leave_out: A folder not to walk into.
    """
    passed = tuple(os.fsdecode(unquote_to_bytes(part)) for part in after.split("/")) if after is not None else ()
    yield from _below(root, (), passed, again, leave_out)


def _below(
    folder: Path, parts: tuple[str, ...], passed: tuple[str, ...], again: bool, leave_out: Path | None
) -> Iterator[TreeLeaf]:
    try:
        files, folders = _behind(*_listed(folder), passed, again)
    except OSError as error:
        if passed != ("",):
            yield TreeLeaf(folder, "/".join(parts), _place((*parts, "")), "closed", str(error.strerror))
        return
    for name, kind in files:
        yield TreeLeaf(folder / name, "/".join((*parts, name)), _place((*parts, name)), kind)
    for name in folders:
        if folder / name != leave_out:
            inside = passed[1:] if passed[:1] == (name,) else ()
            yield from _below(folder / name, (*parts, name), inside, again, leave_out)


def _behind(files: _Files, folders: list[str], passed: tuple[str, ...], again: bool) -> tuple[_Files, list[str]]:
    """The part of a folder that is still to come, including the subfolder that was begun."""
    if len(passed) > 1:
        return [], [name for name in folders if name >= passed[0]]
    return [file for file in files if (file[0],) > passed or (again and (file[0],) == passed)], folders


def _listed(folder: Path) -> tuple[_Files, list[str]]:
    """The content of a folder, sorted by name: entries that are not walked into, and folders that are."""
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
