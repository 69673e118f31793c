"""What the user named as input, image by image: files, folders, zip archives, ``s3://bucket/prefix``.

Nothing is decoded here, and memory stays the same however much there is. A folder or prefix may hold other things
than images: these are passed over and counted, while a file that the user named, or that looks like an image by
name or content, is always answered for.
"""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

from dermbatch.archive import Member, members
from dermbatch.errors import PermanentError, UsageError
from dermbatch.imagefile import SUPPORTED, sniff
from dermbatch.records import Filters, Position, Refusal
from dermbatch.settings import Settings
from dermbatch.store import ObjectInfo, ObjectStore, split_uri
from orchestrator.planning.candidates import Candidate, Item, LeftOut, Skipped, Walk
from orchestrator.planning.selection import Selection
from orchestrator.planning.tree import leaves

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".dcm", ".dicom", ".dic"}
)
__all__ = ["Candidate", "Intake", "LeftOut", "Skipped", "Walk"]

_SNIFFED_BYTES = 512
_LOOKS_AT_A_TIME = 16
_AHEAD = 256
"""Objects of a listing looked into together, where their names do not tell what they are."""


class Intake:
    """Walks inputs.

    Args:
        settings: For the limits of files and archives.
        source: The store that ``s3://`` inputs are read from; ``None`` where there is none.
        in_place: Whether the workers can read ``source`` themselves, so that its images need no copy.
        leave_out: A folder not to walk into: results written below an input are no input.
        filters: Which files and objects are meant. Patterns are held against the path below an input (what
            follows a prefix, an archive's path and a member's in it), so a file or object that is itself an
            input goes by its time alone. An archive's members have the archive's time.

    Raises:
        UsageError: Where the filters cannot be.
    """

    def __init__(
        self,
        settings: Settings,
        source: ObjectStore | None,
        *,
        in_place: bool,
        leave_out: Path | None = None,
        filters: Filters | None = None,
    ) -> None:
        self._limits = settings.archive
        self._max_bytes = settings.worker.max_bytes
        self._source = source
        self._in_place = in_place
        self._leave_out = leave_out.resolve() if leave_out is not None else None
        self._filters = filters or Filters()
        self._selection = Selection(self._filters)

    def check(self, inputs: Sequence[str]) -> None:
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
                if self._source is None:
                    raise UsageError(f"no object store is set up to read {given} from")
            elif not Path(given).exists():
                raise UsageError(f"no such file or folder: {given}")

    def walk(self, inputs: Sequence[str], *, unpack: bool = True) -> Walk:
        """Every candidate of every input, in the order given, folders and prefixes in the order of names.

        A store that cannot be listed for now ends a walk with its :class:`TransientError`; what can never be read
        is a candidate with a refusal.

        Args:
            inputs: What the user named, as :meth:`check` has seen it.
            unpack: Whether members of archives are unpacked as the walk comes to them. Else those that have an
                image's name are not, and can be read only until the walk goes on.
        """
        named = tuple(given if given.startswith("s3://") else str(Path(given).resolve()) for given in inputs)
        return Walk(named, self._filters, partial(self._from, tuple(inputs), unpack))

    def _from(self, inputs: tuple[str, ...], unpack: bool, start: Position) -> Iterator[Item]:
        for number, given in enumerate(inputs):
            if number < start.input:
                continue
            at = start if number == start.input else Position(input=number)
            if given.startswith("s3://"):
                yield from self._prefix(given, at, unpack)
            elif Path(given).is_dir():
                yield from self._folder(Path(given).resolve(), at, unpack)
            elif at.after is None or at.taken:
                yield from self._file(Path(given), Path(given).name, None, _step(at, "file"), at.taken, unpack)

    def _folder(self, base: Path, start: Position, unpack: bool) -> Iterator[Item]:
        for leaf in leaves(base, after=start.after, again=start.taken > 0, leave_out=self._leave_out):
            name = _written(f"{base.name}/{leaf.below}")
            at = _step(start, leaf.place)
            if leaf.kind == "link":
                yield Skipped(name, at)
            elif leaf.kind == "closed":
                yield _refused(name, "unreadable", f"the folder cannot be read: {leaf.why}", at)
            else:
                taken = start.taken if leaf.place == start.after else 0
                yield from self._file(leaf.path, name, _written(leaf.below), at, taken, unpack)

    def _file(
        self, path: Path, name: str, below: str | None, at: Position, taken: int, unpack: bool
    ) -> Iterator[Item]:
        """One file: itself, or its members but the first ``taken``. ``below`` is none where the user named it."""
        suffix, named, paths = path.suffix.lower(), below is None, () if below is None else (below,)
        hidden = path.name.startswith(".") and not named
        if not (
            self._selection.names(paths) or (suffix == ".zip" and not any(map(self._selection.excludes, paths)))
        ):
            yield LeftOut(name, at)
            return
        try:
            head, size, modified = _look(path)
        except OSError as error:
            if named or (not hidden and suffix in IMAGE_SUFFIXES | {".zip"}):
                yield _refused(name, "unreadable", f"the file cannot be read: {error.strerror or error}", at)
            else:
                yield Skipped(name, at)
            return
        if not self._selection.times(modified):
            yield LeftOut(name, at)
        elif hidden:  # macOS writes ._name.jpg beside name.jpg
            yield Skipped(name, at)
        elif suffix == ".zip" or (head.startswith(b"PK\x03\x04") and (named or not suffix)):
            yield from self._archive(path, name, below, at, taken, unpack)
        elif named or suffix in IMAGE_SUFFIXES or sniff(head) in SUPPORTED:
            yield self._sized(Candidate(name, read=partial(_read, path), size=size, position=at))
        else:
            yield Skipped(name, at)

    def _sized(self, candidate: Candidate) -> Candidate:
        """The candidate, unless it is too large to be read into memory."""
        if candidate.size is not None and candidate.size > self._max_bytes:
            text = f"the file has {candidate.size:,} bytes, more than the limit of {self._max_bytes:,}"
            return _refused(candidate.name, "too_large", text, candidate.position)
        return candidate

    def _archive(
        self, path: Path, name: str, below: str | None, whole: Position, taken: int, unpack: bool
    ) -> Iterator[Item]:
        try:
            for number, member in enumerate(members(path, self._limits), 1):
                if number <= taken:
                    # It counts against what the archive may unpack to, so that going on gives what not having
                    # stopped would have given.
                    if unpack and self._takes(below, member):
                        _unpack(member)
                else:
                    yield self._member(member, name, below, _step(whole, whole.after, number), unpack)
        except PermanentError as error:
            yield _refused(name, error.reason, str(error), whole)

    def _takes(self, below: str | None, member: Member) -> bool:
        return self._selection.names((member.name,) if below is None else (below, f"{below}/{member.name}"))

    def _member(self, member: Member, archive: str, below: str | None, at: Position, unpack: bool) -> Item:
        label = f"{archive}/{member.name}"
        is_image = _has_image_name(member.name)
        if not self._takes(below, member):
            return LeftOut(label, at)
        if member.refusal is not None:
            return Candidate(label, refusal=member.refusal, position=at)
        if is_image and not unpack:
            return Candidate(label, read=member.read, size=member.size, packed=True, position=at)
        try:
            data = member.read()  # now, while the archive is open
        except PermanentError as error:
            return _refused(label, error.reason, str(error), at)
        if is_image or sniff(data[:_SNIFFED_BYTES]) in SUPPORTED:
            return Candidate(label, read=partial(bytes, data), size=len(data), packed=True, position=at)
        return Skipped(label, at)

    def _prefix(self, uri: str, start: Position, unpack: bool) -> Iterator[Item]:
        if self._source is None:
            raise UsageError(f"no object store is set up to read {uri} from")
        prefix, after = _Prefix(self._source, *split_uri(uri)), start.after or ""
        # A listing begins after a key; what sorts before an archive taken in part is that key without its end.
        infos = prefix.list(after[:-1] if start.taken else after)
        found = start.after is not None
        try:
            for info, looks in self._looked_at(prefix, infos):
                found = True
                if info.key >= after:
                    taken = start.taken if info.key == after else 0
                    yield from self._object(prefix, info, looks, _step(start, info.key), taken, unpack)
        except PermanentError as error:
            text = f"{uri} cannot be listed: {error}"
            yield _refused(uri, error.reason, text, Position(input=start.input + 1))
            return
        if not found:
            text = f"there is no object under {uri}"
            yield _refused(uri, "empty_prefix", text, Position(input=start.input + 1))

    def _looked_at(
        self, prefix: _Prefix, infos: Iterator[ObjectInfo]
    ) -> Iterator[tuple[ObjectInfo, bool | Refusal]]:
        """Objects, and whether they look like images, by content only where the name does not tell.

        A DICOM file's name may be its UID, whose last number then looks like a suffix.
        """

        def look(info: ObjectInfo) -> bool | Refusal:
            below = prefix.below(info.key)
            if below is None or _has_image_name(info.key):
                return True
            wanted = self._selection.names((below,)) and self._selection.times(info.modified)
            if info.key.lower().endswith(".zip") or not info.size or not wanted:
                return False
            try:
                return sniff(prefix.source.head(prefix.bucket, info.key, _SNIFFED_BYTES)) in SUPPORTED
            except PermanentError as error:
                return Refusal(reason=error.reason, message=str(error))

        with ThreadPoolExecutor(_LOOKS_AT_A_TIME) as pool:
            while chunk := list(islice(infos, _AHEAD)):
                told = all(_has_image_name(info.key) for info in chunk)
                yield from zip(chunk, (map if told else pool.map)(look, chunk), strict=True)

    def _object(
        self, prefix: _Prefix, info: ObjectInfo, looks: bool | Refusal, at: Position, taken: int, unpack: bool
    ) -> Iterator[Item]:
        uri, below = f"s3://{prefix.bucket}/{info.key}", prefix.below(info.key)
        paths, is_archive = () if below is None else (below,), info.key.lower().endswith(".zip")
        opened = is_archive and not any(map(self._selection.excludes, paths))
        if not self._selection.times(info.modified) or not (opened or self._selection.names(paths)):
            yield LeftOut(uri, at)
        elif is_archive:
            yield from self._packed_object(prefix, info.key, uri, at, taken, unpack)
        elif isinstance(looks, Refusal):
            yield Candidate(uri, refusal=looks, position=at)
        elif not looks:
            yield Skipped(uri, at)
        elif self._in_place:
            yield self._sized(Candidate(uri, uri=uri, size=info.size, etag=info.etag, position=at))
        else:
            read = partial(prefix.source.get, prefix.bucket, info.key)
            yield self._sized(Candidate(uri, read=read, size=info.size, etag=info.etag, position=at))

    def _packed_object(
        self, prefix: _Prefix, key: str, uri: str, at: Position, taken: int, unpack: bool
    ) -> Iterator[Item]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "archive.zip"
            try:
                prefix.source.download(prefix.bucket, key, path)
            except PermanentError as error:
                yield _refused(uri, error.reason, str(error), at)
                return
            yield from self._archive(path, uri, prefix.below(key), at, taken, unpack)


@dataclass(frozen=True)
class _Prefix:
    """An ``s3://`` input."""

    source: ObjectStore
    bucket: str
    prefix: str

    def list(self, after: str) -> Iterator[ObjectInfo]:
        return self.source.list(self.bucket, self.prefix, start_after=after)

    def below(self, key: str) -> str | None:
        """The path of an object below the prefix; none where the user named the object itself."""
        return None if key == self.prefix and not key.endswith("/") else key[len(self.prefix) :].lstrip("/")


def _has_image_name(key: str) -> bool:
    return PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES


def _step(at: Position, after: str | None, taken: int = 0) -> Position:
    return Position(input=at.input, after=after, taken=taken)


def _written(name: str) -> str:
    """The name as text: names on disk need not be UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _look(path: Path) -> tuple[bytes, int, datetime]:
    """The first bytes of a file, its size, and when it was last modified."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe or a socket might never return
        raise OSError("not a regular file")
    with path.open("rb") as file:
        return file.read(_SNIFFED_BYTES), status.st_size, datetime.fromtimestamp(status.st_mtime, UTC)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PermanentError(f"the file cannot be read: {error.strerror}", reason="unreadable") from error


def _unpack(member: Member) -> None:
    try:
        for _ in member.chunks():
            pass
    except PermanentError:
        return


def _refused(name: str, reason: str, message: str, position: Position) -> Candidate:
    return Candidate(name, refusal=Refusal(reason=reason, message=message), position=position)
