"""What the user named as input, image by image: files, folders, archives, ``s3://bucket/prefix``.

Nothing is decoded here, and memory stays the same however much there is. A folder or prefix may hold other things
than images: these are passed over and counted, while a file that the user named, or that looks like an image by
name or content, is always answered for.
"""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from dermbatch.archives.archive import Member, is_archive, is_archive_name, members
from dermbatch.audit import NO_AUDIT, Audit
from dermbatch.errors import PermanentError, UsageError
from dermbatch.images.dicomhead import is_directory
from dermbatch.images.imagefile import SUPPORTED, sniff
from dermbatch.records import Filters, Position, Refusal
from dermbatch.settings import Settings
from dermbatch.store import ObjectInfo, ObjectStore, split_uri
from orchestrator.planning.intake.candidates import Candidate, Item, LeftOut, Skipped, Walk
from orchestrator.planning.intake.dicomdir import referenced
from orchestrator.planning.intake.frames import count_frames, framed
from orchestrator.planning.intake.prefix import IMAGE_SUFFIXES, Looks, Prefix, has_image_name
from orchestrator.planning.intake.selection import Selection
from orchestrator.planning.intake.tree import leaves

__all__ = ["Candidate", "Intake", "LeftOut", "Skipped", "Walk"]

_SNIFFED_BYTES = 512


class Intake:
    """Walks inputs.

    Args:
        settings: For the limits of files and archives.
        source: The store that ``s3://`` inputs are read from; ``None`` where there is none.
        in_place: Whether the workers can read ``source`` themselves, so that its images need no copy.
        leave_out: A folder not to walk into: results written below an input are no input.
        audit: Where it is noted which local files are read; for objects, it is the store's.
        pseudonym: What audit logs are to call files and objects by; none where their own names will do.
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
        audit: Audit = NO_AUDIT,
        pseudonym: Callable[[str], str] | None = None,
    ) -> None:
        self._limits = settings.archive
        self._max_bytes = settings.worker.max_bytes
        self._source = source.under(pseudonym) if source is not None else None
        self._audit = audit.under(pseudonym)
        self._in_place = in_place
        self._leave_out = leave_out.resolve() if leave_out is not None else None
        self._filters = filters or Filters()
        self._selection = Selection(self._filters)

    def check(self, inputs: Sequence[str], *, quoting: bool = True) -> None:
        """Find out early what cannot be walked.

        Args:
            inputs: What the user named.
            quoting: Whether errors may say their names, else their numbers.

        Raises:
            UsageError: Where a local input does not exist, or a URI is none.
        """
        for number, given in enumerate(inputs, start=1):
            named = given if quoting else f"input {number}"
            if given.startswith("s3://"):
                try:
                    split_uri(given)
                except ValueError as error:
                    raise UsageError(str(error) if quoting else f"{named} is no s3://bucket/key URI") from error
                if self._source is None:
                    raise UsageError(f"no object store is set up to read {named} from")
            elif not Path(given).exists():
                raise UsageError(f"no such file or folder: {named}")

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

    def objects(self, uri: str, infos: Iterable[ObjectInfo]) -> Iterator[Item]:
        """What these objects come to, of which one knows by other means that they are meant and are there.

        Args:
            uri: The prefix that they are below.
            infos: The objects. The position of each item names the key of its object.

        Raises:
            StoreUnavailable, StoreRefused: Where the store fails.
        """
        if self._source is None:
            raise UsageError(f"no object store is set up to read {uri} from")
        prefix = Prefix(self._source, *split_uri(uri))
        for info, looks in prefix.looked_at(iter(infos), lambda info: info.size <= self._max_bytes):
            yield from self._object(prefix, info, looks, Position(after=info.key), 0, unpack=True)

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
            self._selection.names(paths)
            or (is_archive_name(path.name) and not any(map(self._selection.excludes, paths)))
        ):
            yield LeftOut(name, at)
            return
        try:
            head, size, modified = _look(path)
        except OSError as error:
            if named or (not hidden and (suffix in IMAGE_SUFFIXES or is_archive_name(path.name))):
                yield _refused(name, "unreadable", f"the file cannot be read: {error.strerror or error}", at)
            else:
                yield Skipped(name, at)
            return
        if not self._selection.times(modified):
            yield LeftOut(name, at)
        elif hidden:  # macOS writes ._name.jpg beside name.jpg
            yield Skipped(name, at)
        elif is_archive_name(path.name) or (is_archive(head) and (named or not suffix)):
            self._audit.note("read", str(path.resolve()), size=size)
            yield from self._archive(path, name, below, at, taken, unpack)
        elif is_directory(head):
            yield from self._directory(path, at, taken, unpack) if named else [Skipped(name, at)]
        elif named or suffix in IMAGE_SUFFIXES or sniff(head) in SUPPORTED:
            candidate = self._sized(Candidate(name, read=partial(self._read, path), size=size, position=at))
            yield from _after(taken, framed(candidate, partial(count_frames, partial(_read, path))))
        else:
            yield Skipped(name, at)

    def _read(self, path: Path) -> bytes:
        body = _read(path)
        self._audit.note("read", str(path.resolve()), size=len(body))
        return body

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
            number = 0
            for member in members(path, self._limits):
                # Those taken before, too: they count against what the archive may unpack to, so that going on
                # gives what not having stopped would have given.
                for item in self._member(member, name, below, whole, unpack):
                    number += 1
                    if number > taken:
                        yield replace(item, position=_step(whole, whole.after, number))
        except PermanentError as error:
            yield _refused(name, error.reason, str(error), whole)
        except OSError as error:
            yield _refused(name, "unreadable", f"the file cannot be read: {error.strerror or error}", whole)

    def _takes(self, below: str | None, member: Member) -> bool:
        inside = (*member.within, member.name)
        return self._selection.names(inside if below is None else (below, *(f"{below}/{name}" for name in inside)))

    def _member(
        self, member: Member, archive: str, below: str | None, at: Position, unpack: bool
    ) -> Iterator[Item]:
        """A member as one item, or as many as it has frames."""
        label = f"{archive}/{member.name}"
        is_image = has_image_name(member.name)
        if not self._takes(below, member):
            yield LeftOut(label, at)
            return
        if member.refusal is not None:
            yield Candidate(label, refusal=member.refusal, position=at)
            return
        if is_image and not unpack:
            yield Candidate(label, read=member.read, size=member.size, packed=True, position=at)
            return
        try:
            data = member.read()  # now, while the archive is open
        except PermanentError as error:
            yield _refused(label, error.reason, str(error), at)
            return
        head = data[:_SNIFFED_BYTES]
        if not is_directory(head) and (is_image or sniff(head) in SUPPORTED):
            candidate = Candidate(label, read=partial(bytes, data), size=len(data), packed=True, position=at)
            yield from framed(candidate, partial(count_frames, lambda length: data[:length]))
        else:
            yield Skipped(label, at)

    def _directory(self, path: Path, at: Position, taken: int, unpack: bool) -> Iterator[Item]:
        """The files that a DICOMDIR names."""
        base = path.resolve().parent
        number = 0
        try:
            for found in referenced(path):
                name = _written(f"{base.name}/{found.below}")
                if found.refusal is not None:
                    items: Iterable[Item] = [Candidate(name, refusal=found.refusal)]
                else:
                    items = self._file(found.path, name, _written(found.below), at, 0, unpack)
                for item in items:
                    number += 1
                    if number > taken:
                        yield replace(item, position=_step(at, at.after, number))
        except PermanentError as error:
            yield _refused(_written(path.name), error.reason, str(error), at)

    def _prefix(self, uri: str, start: Position, unpack: bool) -> Iterator[Item]:
        if self._source is None:
            raise UsageError(f"no object store is set up to read {uri} from")
        prefix, after = Prefix(self._source, *split_uri(uri)), start.after or ""
        # A listing begins after a key; what sorts before an archive taken in part is that key without its end.
        infos = prefix.list(after[:-1] if start.taken else after)

        def wanted(info: ObjectInfo) -> bool:
            below = prefix.below(info.key)
            names = self._selection.names(() if below is None else (below,))
            return names and self._selection.times(info.modified) and info.size <= self._max_bytes

        found = start.after is not None
        try:
            for info, looks in prefix.looked_at(infos, wanted):
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

    def _object(
        self, prefix: Prefix, info: ObjectInfo, looks: Looks, at: Position, taken: int, unpack: bool
    ) -> Iterator[Item]:
        uri, below = f"s3://{prefix.bucket}/{info.key}", prefix.below(info.key)
        paths, is_packed = () if below is None else (below,), is_archive_name(info.key)
        opened = is_packed and not any(map(self._selection.excludes, paths))
        if not self._selection.times(info.modified) or not (opened or self._selection.names(paths)):
            yield LeftOut(uri, at)
        elif is_packed:
            yield from self._packed_object(prefix, info.key, uri, at, taken, unpack)
        elif not looks.image:
            yield Skipped(uri, at)
        else:
            read = None if self._in_place else partial(prefix.source.get, prefix.bucket, info.key)
            place = uri if self._in_place else None
            candidate = Candidate(uri, read=read, uri=place, size=info.size, etag=info.etag, position=at)
            yield from _after(taken, framed(self._sized(candidate), looks.count))

    def _packed_object(
        self, prefix: Prefix, key: str, uri: str, at: Position, taken: int, unpack: bool
    ) -> Iterator[Item]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "archive.zip"
            try:
                prefix.source.download(prefix.bucket, key, path)
            except PermanentError as error:
                yield _refused(uri, error.reason, str(error), at)
                return
            yield from self._archive(path, uri, prefix.below(key), at, taken, unpack)


def _after(taken: int, frames: Iterable[Candidate]) -> Iterator[Candidate]:
    """A file's images but the first ``taken``, where it holds several, each with its position."""
    for one in frames:
        if one.frame is None and not taken:
            yield one
        elif one.frame is not None and one.frame > taken:
            yield replace(one, position=_step(one.position, one.position.after, one.frame))


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


def _read(path: Path, length: int = -1) -> bytes:
    """The first bytes of a file, all of them where no length is given."""
    try:
        with path.open("rb") as file:
            return file.read(length)
    except OSError as error:
        raise PermanentError(f"the file cannot be read: {error.strerror}", reason="unreadable") from error


def _refused(name: str, reason: str, message: str, position: Position) -> Candidate:
    return Candidate(name, refusal=Refusal(reason=reason, message=message), position=position)
