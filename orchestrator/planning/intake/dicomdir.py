"""A DICOMDIR that is itself an input: the files that it names, none outside of its own folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dermbatch.errors import BadInput, PermanentError
from dermbatch.images.dicomhead import referenced_files
from dermbatch.records import Refusal

MOST_BYTES = 64 << 20
"""Of a DICOMDIR; that is of some 100,000 images."""


@dataclass(frozen=True)
class Referenced:
    """A file that a DICOMDIR names.

    Attributes:
        path: Where it is.
        below: Its path below the DICOMDIR's folder, with slashes.
        refusal: Why it is not taken.
    """

    path: Path
    below: str
    refusal: Refusal | None = None


def referenced(directory: Path) -> Iterator[Referenced]:
    """The files that a DICOMDIR names, in its order.

    Raises:
        PermanentError: ``unreadable``, ``too_large``, ``corrupt``, or ``no_pixel_data`` where it names none.
    """
    try:
        if directory.stat().st_size > MOST_BYTES:
            raise BadInput(f"the DICOMDIR has more than {MOST_BYTES:,} bytes; give its folder", reason="too_large")
        data = directory.read_bytes()
    except OSError as error:
        raise PermanentError(f"the file cannot be read: {error.strerror}", reason="unreadable") from error
    base = directory.resolve().parent
    named = referenced_files(data)
    if not named:
        raise BadInput("the DICOMDIR names no files; give its folder", reason="no_pixel_data")
    for parts in named:
        yield _referenced(base, parts)


def _referenced(base: Path, parts: tuple[str, ...]) -> Referenced:
    below = "/".join(parts)
    path = base.joinpath(*parts)
    if any(part in (".", "..") or {"/", "\\", "\0"} & set(part) for part in parts):
        return Referenced(path, below, _leads_out())
    # Discs have their names in capitals (ISO 9660); copied to a disk they may not.
    for candidate in (path, base.joinpath(*(part.lower() for part in parts))):
        try:
            place = candidate.resolve(strict=True)
        except (OSError, RuntimeError):
            continue
        return Referenced(candidate, below, None if place.is_relative_to(base) else _leads_out())
    missing = "the DICOMDIR names a file that is not there; copy the whole export again"
    return Referenced(path, below, Refusal(reason="unreadable", message=missing))


def _leads_out() -> Refusal:
    return Refusal(reason="dicomdir_path", message="the DICOMDIR names a file outside of its own folder")
