"""A DICOMDIR that is itself an input: the files that it names, none outside of its own folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from dermbatch.errors import BadInput, PermanentError
from dermbatch.images.dicomhead import referenced_files
from orchestrator.planning.intake.candidates import Candidate, refused, unreadable
from orchestrator.planning.intake.leaf import File, written

MOST_BYTES = 64 << 20
"""Of a DICOMDIR; that is of some 100,000 images."""

_VERSION = re.compile(r"\.?;\d+\Z|\.\Z")  # of names on a disc: ISO 9660, 7.5.1
_SUFFIX = re.compile(r"\.(dcm|dicom|dic|ima)\Z")
_DRIVE = re.compile(r"[A-Za-z]:")


def referenced(directory: File) -> Iterator[File | Candidate]:
    """The files that a DICOMDIR names, in its order; those that are not taken as candidates with a refusal.

    Raises:
        PermanentError: ``unreadable``, ``too_large``, ``corrupt``, or ``no_pixel_data`` where it names none.
    """
    try:
        if directory.path.stat().st_size > MOST_BYTES:
            raise BadInput(f"the DICOMDIR has more than {MOST_BYTES:,} bytes; give its folder", reason="too_large")
        data = directory.path.read_bytes()
    except OSError as error:
        raise unreadable(error) from error
    disc = _Disc(directory.path.resolve().parent)
    named = referenced_files(data)
    if not named:
        raise BadInput("the DICOMDIR names no files; give its folder", reason="no_pixel_data")
    for parts in named:
        below = "/".join(parts)
        name = written(f"{disc.base.name}/{below}")
        try:
            yield File(disc.path(parts), name, below, directory.audit)
        except PermanentError as error:
            yield refused(name, error)


class _Disc:
    """The folder of a DICOMDIR, whose names may have changed since: copied, unpacked, or given an ending.

    Args:
        base: The folder.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self._listed: dict[Path, list[str]] = {}

    def path(self, file_id: tuple[str, ...]) -> Path:
        """The file that a File ID names (PS3.10, 8.2), each component by itself or all of them as one path.

        Raises:
            BadInput: ``dicomdir_path``, where it is outside of the folder.
            PermanentError: ``unreadable``, where it is not there.
        """
        outside = BadInput("the DICOMDIR names a file outside of its own folder", reason="dicomdir_path")
        parts = [part for one in file_id for part in re.split(r"[/\\]", one) if part not in {"", "."}]
        if not parts or any(part == ".." or "\0" in part or _DRIVE.match(part) for part in parts):
            raise outside
        found = self.base
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            name = self._name(found, part, last=last)
            if name is None and file_id[0][:1] in {"/", "\\"}:
                raise outside  # an absolute path, and none of a disc's root
            if name is None:
                missing = "the DICOMDIR names a file that is not there; copy the whole export again"
                raise PermanentError(missing, reason="unreadable")
            found = found / name
            try:
                place = found.resolve(strict=True)
            except (OSError, RuntimeError) as error:
                raise PermanentError(
                    "a file that the DICOMDIR names cannot be read", reason="unreadable"
                ) from error
            if not place.is_relative_to(self.base):
                raise outside
        return found

    def _name(self, folder: Path, part: str, *, last: bool) -> str | None:
        """What a component is called on this disk: as it is written, else in other case, else with an ending."""
        if folder not in self._listed:
            try:
                self._listed[folder] = sorted(path.name for path in folder.iterdir())
            except OSError:
                self._listed[folder] = []
        names = self._listed[folder]
        for alike in (str, str.lower, _plain, *((_stem,) if last else ())):
            for name in names:
                if alike(name) == alike(part):
                    return name
        return None


def _plain(name: str) -> str:
    """A name without the version that discs have."""
    return _VERSION.sub("", name.lower())


def _stem(name: str) -> str:
    """The same without an ending that tells of DICOM."""
    return _SUFFIX.sub("", _plain(name))
