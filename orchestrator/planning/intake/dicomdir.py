"""A DICOMDIR that is itself an input: the files that it names, none outside of its own folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dermbatch.errors import BadInput, PermanentError
from dermbatch.images.dicomhead import referenced_files
from orchestrator.planning.intake.candidates import Candidate, refused, unreadable
from orchestrator.planning.intake.leaf import File, written

MOST_BYTES = 64 << 20
"""Of a DICOMDIR; that is of some 100,000 images."""


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
    base = directory.path.resolve().parent
    named = referenced_files(data)
    if not named:
        raise BadInput("the DICOMDIR names no files; give its folder", reason="no_pixel_data")
    for parts in named:
        below = "/".join(parts)
        name = written(f"{base.name}/{below}")
        try:
            yield File(_path(base, parts), name, below, directory.audit)
        except PermanentError as error:
            yield refused(name, error)


def _path(base: Path, parts: tuple[str, ...]) -> Path:
    outside = BadInput("the DICOMDIR names a file outside of its own folder", reason="dicomdir_path")
    if any(part in (".", "..") or {"/", "\\", "\0"} & set(part) for part in parts):
        raise outside
    # Discs have their names in capitals (ISO 9660); copied to a disk they may not.
    for candidate in (base.joinpath(*parts), base.joinpath(*(part.lower() for part in parts))):
        try:
            place = candidate.resolve(strict=True)
        except (OSError, RuntimeError):
            continue
        if not place.is_relative_to(base):
            raise outside
        return candidate
    missing = "the DICOMDIR names a file that is not there; copy the whole export again"
    raise PermanentError(missing, reason="unreadable")
