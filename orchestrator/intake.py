"""What the user named as input, image by image: files, folders, zip archives, ``s3://bucket/prefix``.

Nothing is decoded here. A folder or prefix may hold other things than images: these are passed over and counted,
while a file that the user named, or that looks like an image by name or content, is always answered for.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from dermbatch.archive import members
from dermbatch.errors import DermbatchError, PermanentError, UsageError
from dermbatch.imagefile import SUPPORTED, sniff
from dermbatch.records import Refusal
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore, split_uri

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".dcm", ".dicom", ".dic"}
)
_SNIFFED_BYTES = 512


@dataclass(frozen=True)
class Candidate:
    """One input that may be an image. Exactly one of ``read``, ``uri`` and ``refusal`` is there.

    Attributes:
        name: What the user calls it.
        read: Reads the bytes; raises :class:`DermbatchError`. They have to be uploaded.
        uri: The object that holds it already.
        refusal: Why it is no input.
    """

    name: str
    read: Callable[[], bytes] | None = None
    uri: str | None = None
    size: int | None = None
    refusal: Refusal | None = None


@dataclass(frozen=True)
class Skipped:
    """Something in a folder or prefix that is no image and was not named by the user."""

    name: str


class Intake:
    """Walks inputs.

    Args:
        settings: For the limits of files and archives.
        source: The store that ``s3://`` inputs are read from; ``None`` where there is none.
        in_place: Whether the workers can read ``source`` themselves, so that its images need no copy.
        leave_out: A folder not to walk into: results written below an input are no input.
    """

    def __init__(
        self, settings: Settings, source: ObjectStore | None, *, in_place: bool, leave_out: Path | None = None
    ) -> None:
        self._limits = settings.archive
        self._max_bytes = settings.worker.max_bytes
        self._source = source
        self._in_place = in_place
        self._leave_out = leave_out.resolve() if leave_out is not None else None

    def check(self, inputs: list[str]) -> None:
        """Find out early what cannot be walked.

        Raises:
            UsageError: Where a local input does not exist, or a URI is none.
        """
        for given in inputs:
            if given.startswith("s3://"):
                try:
                    split_uri(given)
                except ValueError as error:
                    raise UsageError(str(error)) from error
            elif not Path(given).exists():
                raise UsageError(f"no such file or folder: {given}")

    def walk(self, inputs: list[str]) -> Iterator[Candidate | Skipped]:
        """Every candidate of every input, in the order given, folders and prefixes in the order of names."""
        for given in inputs:
            if given.startswith("s3://"):
                yield from self._prefix(given)
            elif Path(given).is_dir():
                yield from self._folder(Path(given))
            else:
                yield from self._file(Path(given), Path(given).name, named=True)

    def _folder(self, folder: Path) -> Iterator[Candidate | Skipped]:
        base = folder.resolve()
        closed: list[OSError] = []
        for parent, folders, names in os.walk(base, onerror=closed.append):
            here = Path(parent)
            for name in sorted(folders):
                if (here / name).is_symlink():  # it may lead back up, and round
                    yield Skipped(_label(base, here / name))
            folders[:] = sorted(
                name for name in folders if not name.startswith(".") and here / name != self._leave_out
            )
            for name in sorted(names):
                yield from self._file(here / name, _label(base, here / name), named=False)
        for error in closed:
            label = _label(base, Path(error.filename))
            yield _refused(label, "unreadable", f"the folder cannot be read: {error.strerror}")

    def _file(self, path: Path, name: str, *, named: bool) -> Iterator[Candidate | Skipped]:
        suffix = path.suffix.lower()
        hidden = path.name.startswith(".") and not named
        try:
            head, size = _look(path)
        except OSError as error:
            if named or (not hidden and suffix in IMAGE_SUFFIXES | {".zip"}):
                yield _refused(name, "unreadable", f"the file cannot be read: {error.strerror or error}")
            else:
                yield Skipped(name)
            return
        if hidden:  # macOS writes ._name.jpg beside name.jpg
            yield Skipped(name)
        elif suffix == ".zip" or (head.startswith(b"PK\x03\x04") and (named or not suffix)):
            yield from self._archive(path, name)
        elif named or suffix in IMAGE_SUFFIXES or sniff(head) in SUPPORTED:
            yield self._sized(Candidate(name, read=lambda: _read(path), size=size))
        else:
            yield Skipped(name)

    def _sized(self, candidate: Candidate) -> Candidate:
        """The candidate, unless it is too large to be read into memory."""
        if candidate.size is not None and candidate.size > self._max_bytes:
            text = f"the file has {candidate.size:,} bytes, more than the limit of {self._max_bytes:,}"
            return _refused(candidate.name, "too_large", text)
        return candidate

    def _archive(self, path: Path, name: str) -> Iterator[Candidate | Skipped]:
        try:
            yield from self._members(path, name)
        except PermanentError as error:
            yield _refused(name, error.reason, str(error))

    def _members(self, path: Path, name: str) -> Iterator[Candidate | Skipped]:
        for member in members(path, self._limits):
            label = f"{name}/{member.name}"
            if member.refusal is not None:
                yield Candidate(label, refusal=member.refusal)
                continue
            try:
                data = member.read()  # now, while the archive is open
            except PermanentError as error:
                yield _refused(label, error.reason, str(error))
                continue
            if (
                PurePosixPath(member.name).suffix.lower() in IMAGE_SUFFIXES
                or sniff(data[:_SNIFFED_BYTES]) in SUPPORTED
            ):
                yield Candidate(label, read=partial(bytes, data), size=len(data))
            else:
                yield Skipped(label)

    def _prefix(self, uri: str) -> Iterator[Candidate | Skipped]:
        bucket, prefix = split_uri(uri)
        if self._source is None:
            raise UsageError(f"no object store is set up to read {uri} from")
        found = False
        try:
            for info in self._source.list(bucket, prefix):
                found = True
                yield from self._object(bucket, info.key, info.size)
        except DermbatchError as error:
            yield _refused(uri, error.reason, f"{uri} cannot be listed: {error}")
            return
        if not found:
            yield _refused(uri, "empty_prefix", f"there is no object under {uri}")

    def _object(self, bucket: str, key: str, size: int) -> Iterator[Candidate | Skipped]:
        source = self._source
        assert source is not None  # noqa: S101 - _prefix has checked
        suffix = PurePosixPath(key).suffix.lower()
        uri = f"s3://{bucket}/{key}"
        if suffix == ".zip":
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "archive.zip"
                source.download(bucket, key, path)
                yield from self._archive(path, uri)
        # A DICOM file's name may be its UID, whose last number then looks like a suffix: content decides.
        elif suffix not in IMAGE_SUFFIXES and (
            not size or sniff(source.head(bucket, key, _SNIFFED_BYTES)) not in SUPPORTED
        ):
            yield Skipped(uri)
        elif self._in_place:
            yield self._sized(Candidate(uri, uri=uri, size=size))
        else:
            yield self._sized(Candidate(uri, read=lambda: source.get(bucket, key), size=size))


def _label(base: Path, path: Path) -> str:
    """What a file below an input folder is called."""
    name = f"{base.name}/{path.relative_to(base).as_posix()}"
    return name.encode("utf-8", "backslashreplace").decode()  # names on disk need not be UTF-8


def _look(path: Path) -> tuple[bytes, int]:
    """The first bytes of a file, and its size."""
    if not path.is_file():  # opening a pipe or a socket might never return
        raise OSError("not a regular file")
    with path.open("rb") as file:
        return file.read(_SNIFFED_BYTES), path.stat().st_size


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PermanentError(f"the file cannot be read: {error.strerror}", reason="unreadable") from error


def _refused(name: str, reason: str, message: str) -> Candidate:
    return Candidate(name, refusal=Refusal(reason=reason, message=message))
