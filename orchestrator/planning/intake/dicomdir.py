"""A DICOMDIR as an input: the files that it names, none of them outside its own folder."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dermbatch.bounded.reader import Reader
from dermbatch.errors import BadInput, PermanentError
from dermbatch.images.dicomhead import referenced_files
from dermbatch.store import ObjectInfo
from orchestrator.planning.intake.candidates import Candidate, Skipped, refused, unreadable
from orchestrator.planning.intake.leaf import File, Object, written

MOST_BYTES = 64 << 20
"""Largest DICOMDIR; enough for some 100,000 images."""
_MOST_OBJECTS = 1_000_000

_VERSION = re.compile(r"\.?;\d+\Z|\.\Z")  # of names on a disc: ISO 9660, 7.5.1
_SUFFIX = re.compile(r"\.(dcm|dicom|dic|ima)\Z")
_DRIVE = re.compile(r"[A-Za-z]:")


def referenced(directory: File | Object, reader: Reader) -> Iterator[File | Object | Candidate | Skipped]:
    """The files that a DICOMDIR names, in its order; those that cannot be taken are refused candidates.

    Args:
        directory: The DICOMDIR.
        reader: Reads it.

    Raises:
        PermanentError: ``unreadable``, ``too_large``, ``too_expensive``, ``corrupt``, or where it names none
            ``no_pixel_data``.
        StoreUnavailable, StoreRefused: If it is in a store that fails.
    """
    disc: _Disc = _Folder(directory) if isinstance(directory, File) else _Bucket(directory)
    if disc.size() > MOST_BYTES:
        raise BadInput(f"the DICOMDIR has more than {MOST_BYTES:,} bytes; give its folder", reason="too_large")
    named = reader.run(referenced_files, directory.read())
    if not named:
        raise BadInput("the DICOMDIR names no files; give its folder", reason="no_pixel_data")
    for parts in named:
        below = "/".join(parts)
        try:
            place = disc.find(parts)
            own = isinstance(directory, File) and place == Path(directory.path.name)
            yield Skipped(written(f"{disc.name}/{below}")) if own else disc.leaf(place, below)
        except PermanentError as error:
            yield refused(written(f"{disc.name}/{below}"), error)


def gone(directory: File, reader: Reader) -> list[Candidate]:
    """What a DICOMDIR names but a walk of its folder would not find, as refused candidates.

    Nothing if it cannot be read: what exists is found anyway.
    """
    try:
        lost = [one for one in referenced(directory, reader) if isinstance(one, Candidate)]
    except PermanentError:
        return []
    folder = directory.name.rpartition("/")[0]  # named as in the walk, from its beginning
    return [replace(one, name=f"{folder}/{one.name.partition('/')[2]}") for one in lost]


class _Disc(ABC):
    """The folder of a DICOMDIR, whose names may have changed since by copying, unpacking or added endings.

    Args:
        name: What the folder is called.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._listed: dict[Path, list[str]] = {}

    @abstractmethod
    def size(self) -> int:
        """Bytes of the DICOMDIR."""

    @abstractmethod
    def leaf(self, place: Path, below: str) -> File | Object:
        """The leaf at a path below the folder, which has this name in the DICOMDIR."""

    @abstractmethod
    def names(self, folder: Path) -> list[str]:
        """What is in a folder below it."""

    @abstractmethod
    def check(self, place: Path) -> None:
        """Raise `BadInput` if a path leads out of the folder after all."""

    def find(self, file_id: tuple[str, ...]) -> Path:
        """The path below the folder that a File ID names (PS3.10, 8.2), by components or all of them as one path.

        Raises:
            BadInput: ``dicomdir_path``, if it is outside of the folder.
            PermanentError: ``unreadable``, if it is not there.
        """
        parts = [part for one in file_id for part in re.split(r"[/\\]", one) if part not in {"", "."}]
        if not parts or any(part == ".." or "\0" in part or _DRIVE.match(part) for part in parts):
            raise _outside()
        found = Path()
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            name = self._name(found, part, last=last)
            if name is None and file_id[0][:1] in {"/", "\\"}:
                raise _outside()  # an absolute path, rather than one from the root of the disc
            if name is None:
                missing = "the DICOMDIR names a file that is not there; copy the whole export again"
                raise PermanentError(missing, reason="unreadable")
            found = found / name
            self.check(found)
        return found

    def _name(self, folder: Path, part: str, *, last: bool) -> str | None:
        """The name of a component here: as written, else in other case, else with an ending."""
        if folder not in self._listed:
            self._listed[folder] = sorted(self.names(folder))
        names = self._listed[folder]
        for alike in (str, str.lower, _plain, *((_stem,) if last else ())):
            for name in names:
                if alike(name) == alike(part):
                    return name
        return None


class _Folder(_Disc):
    """On a disk."""

    def __init__(self, directory: File) -> None:
        self._directory, self._base = directory, directory.path.resolve().parent
        super().__init__(self._base.name)

    def size(self) -> int:
        try:
            return self._directory.path.stat().st_size
        except OSError as error:
            raise unreadable(error) from error

    def leaf(self, place: Path, below: str) -> File:
        return File(
            self._base / place,
            written(f"{self.name}/{below}"),
            below,
            self._directory.audit,
            in_place=self._directory.uri is not None,
        )

    def names(self, folder: Path) -> list[str]:
        try:
            return [path.name for path in (self._base / folder).iterdir()]
        except OSError:
            return []

    def check(self, place: Path) -> None:
        """As for all discs; symbolic links may lead anywhere."""
        try:
            real = (self._base / place).resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise PermanentError(
                "a file that the DICOMDIR names cannot be read; check its permissions", reason="unreadable"
            ) from error
        if not real.is_relative_to(self._base):
            raise _outside()


class _Bucket(_Disc):
    """In an object store, where everything below the folder is listed once."""

    def __init__(self, directory: Object) -> None:
        super().__init__(directory.name.rpartition("/")[0])
        self._directory = directory
        self._below: dict[Path, set[str]] = {}
        self._objects: dict[Path, ObjectInfo] = {}

    def size(self) -> int:
        return self._directory.info.size

    def leaf(self, place: Path, below: str) -> Object:
        if place not in self._objects:
            raise PermanentError("the DICOMDIR names a folder; copy the whole export again", reason="unreadable")
        leaf = self._directory.beside(self._objects[place], below)
        leaf.look_into()
        return leaf

    def check(self, place: Path) -> None:
        """As for all discs; keys lead nowhere else."""

    def names(self, folder: Path) -> list[str]:
        if not self._below:
            self._list()
        return [*self._below.get(folder, ())]

    def _list(self) -> None:
        base = self._directory.file.rpartition("/")[0]
        for number, info in enumerate(self._directory.below()):
            if number == _MOST_OBJECTS:
                text = f"there are more than {_MOST_OBJECTS:,} objects beside the DICOMDIR; give its prefix"
                raise BadInput(text, reason="too_large")
            place = Path(info.key[len(base) :].lstrip("/"))
            self._objects[place] = info
            for folder, below in zip(place.parents, (place, *place.parents), strict=False):
                self._below.setdefault(folder, set()).add(below.name)


def _outside() -> BadInput:
    return BadInput("the DICOMDIR names a file outside of its own folder", reason="dicomdir_path")


def _plain(name: str) -> str:
    """A name without the version that discs have."""
    return _VERSION.sub("", name.lower())


def _stem(name: str) -> str:
    """The same without an ending that says DICOM."""
    return _SUFFIX.sub("", _plain(name))
