"""A leaf of a walk: a file, an object or a member of an archive, all with the same interface."""

from __future__ import annotations

import stat
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dermbatch.archives.archive import ArchiveMember, is_archive_name, is_compressed_name
from dermbatch.archives.sidecars import is_sidecar
from dermbatch.audit import Audit
from dermbatch.errors import PermanentError
from dermbatch.images.dicomhead import HEAD_BYTES, is_directory
from dermbatch.images.imagefile import DICOM, SUPPORTED, sniff
from dermbatch.records.marks import FILE_NAMES, is_marked, is_result_path
from dermbatch.store import ObjectInfo, ObjectStore
from orchestrator.planning.intake.candidates import unreadable
from orchestrator.planning.intake.formats import is_picture_name, untaken
from orchestrator.planning.intake.frames import count_frames

_ONE_FRAME_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif"}
_IMAGE_SUFFIXES = _ONE_FRAME_SUFFIXES | {".dcm", ".dicom", ".dic", ".ima"}
_SNIFFED_BYTES = 512


class Head(NamedTuple):
    """What a look at a leaf gives: its first 512 bytes (none if only its name is used), its size and its time."""

    data: bytes
    size: int = 0
    modified: datetime | None = None


class Leaf(ABC):
    """Something that may be an image, or contain images.

    Args:
        name: What the user calls it.
        file: Its own name, for its ending.
        paths: Paths that patterns are matched against; none if the user named it.

    Attributes:
        suffix: Suffix of its own name, in lower case.
        named: Whether the user named it.
        answered: Whether it always gets an outcome as an image, whatever it holds.
        archive: Whether it is to be opened as an archive, by its name.
        compressed: Whether it is one compressed file, by its name.
        hidden: Whether it is skipped as a sidecar.
        own: Whether it lies where only results of Dermbatch lie.
        packed: Whether reading it means unpacking.
        uri: Where workers can read it themselves.
        etag: ETag of its object.
        looked: Whether planning reads all of it, to identify or upload it.
    """

    hidden = packed = False
    looked = True
    uri: str | None = None
    etag: str | None = None

    def __init__(self, name: str, file: str, paths: tuple[str, ...]) -> None:
        self.name, self.file, self.paths = name, file, paths
        self.suffix = suffix_of(file)
        self.named = not paths
        self.answered = self.named or self.suffix in _IMAGE_SUFFIXES
        self.archive = is_archive_name(file)
        self.compressed = is_compressed_name(file)
        self.own = any(map(is_result_path, paths))

    @abstractmethod
    def look(self) -> Head:
        """Its beginning; raises `PermanentError` if it must get an outcome and cannot be read."""

    @abstractmethod
    def read(self, length: int = -1) -> bytes:
        """This many of its first bytes, or all of them without a length; raises `PermanentError`."""

    def is_image(self, head: bytes) -> bool:
        """Whether it gets an outcome as an image; a DICOMDIR need not, as its files are found anyway."""
        if self.named or is_directory(head):
            return self.named
        known = (sniff(head) or "").startswith("image/") or untaken(self.file, head) is not None
        return self.answered or known or sniff(head) in SUPPORTED

    def is_result(self, head: bytes) -> bool:
        """Whether it is a result of Dermbatch, by its place or its bytes; raises as `read` does."""
        if sniff(head) == DICOM and not is_directory(head):
            head = self.read(HEAD_BYTES)
        return self.own or is_marked(head)

    def frames(self, head: bytes, size: int) -> int:
        """How many images it holds, given its size in bytes; raises as `read` and :func:`count_frames` do."""
        return count_frames(self.read, size) if sniff(head) == DICOM else 1


class File(Leaf):
    """A file on disk.

    Args:
        path: Where it is.
        name: What the user calls it.
        below: Its path below the input; none where the user named it.
        audit: Where it is noted that it is read.
        in_place: Whether workers read it themselves, being on this machine.

    Attributes:
        path: Where it is.
        audit: Where it is noted that it is read.
    """

    def __init__(self, path: Path, name: str, below: str | None, audit: Audit, *, in_place: bool = False) -> None:
        super().__init__(written(name), path.name, () if below is None else (written(below),))
        self.uri = path.absolute().as_uri() if in_place else None
        self.path, self.audit, self._size = path, audit, 0
        self.hidden = below is not None and is_sidecar(below)  # macOS writes ._name.jpg beside name.jpg

    def look(self) -> Head:
        """As for all leaves; a file that cannot be read and does not look like an image gives nothing."""
        try:
            status = self.path.stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe or a socket might never return
                raise OSError("not a regular file")  # noqa: TRY301 - as one that the system says
            with self.path.open("rb") as file:
                data = file.read(_SNIFFED_BYTES)
        except OSError as error:
            if self.hidden or not (self.answered or self.archive):
                return Head(b"")
            raise unreadable(error) from error
        self._size = status.st_size
        return Head(data, self._size, datetime.fromtimestamp(status.st_mtime, UTC))

    def read(self, length: int = -1) -> bytes:
        """As for all leaves; reading all of it is noted."""
        try:
            with self.path.open("rb") as file:
                body = file.read(length)
        except OSError as error:
            raise unreadable(error) from error
        if length < 0:
            self.audit.note("read", str(self.path.resolve()), size=len(body))
        return body

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """A path at which it can be read piece by piece."""
        self.audit.note("read", str(self.path.resolve()), size=self._size)
        yield self.path


class Object(Leaf):
    """An object of a store. What it holds is known if it was looked into.

    Args:
        source: The store.
        bucket: Where it is.
        info: What a listing says of it.
        below: The path below the input; none where the user named it.
        in_place: Whether workers read it themselves.

    Attributes:
        told: Whether its name or size alone says everything: it is an archive, a single image, or empty.
        info: What a listing says of it.
    """

    def __init__(
        self, source: ObjectStore, bucket: str, info: ObjectInfo, below: str | None, *, in_place: bool
    ) -> None:
        super().__init__(f"s3://{bucket}/{info.key}", info.key, () if below is None else (below,))
        self.info, self.etag = info, info.etag
        self.uri = self.name if in_place else None
        self.looked = not in_place
        self.hidden = below is not None and is_sidecar(below)
        known = self.suffix in _ONE_FRAME_SUFFIXES and info.key.rpartition("/")[2] not in FILE_NAMES
        self.told = self.archive or self.hidden or self.own or known or not info.size
        self._source, self._bucket = source, bucket
        self._data, self._frames = b"", 1
        self._error: PermanentError | None = None

    def below(self) -> Iterator[ObjectInfo]:
        """The listing of the objects in its folder and below."""
        folder, slash, _ = self.file.rpartition("/")
        return self._source.list(self._bucket, folder + slash)

    def beside(self, info: ObjectInfo, below: str) -> Object:
        """Another object of its bucket, with this path below the input."""
        return Object(self._source, self._bucket, info, below, in_place=self.uri is not None)

    def look_into(self) -> None:
        """Read its first bytes, and more of a DICOM file if needed to count its frames.

        The name of a DICOM file may be its UID, whose last number looks like a suffix.

        Raises:
            StoreUnavailable, StoreRefused: If the store fails.
        """
        try:
            head = self.read(HEAD_BYTES)
            self._data = head[:_SNIFFED_BYTES]
            if not is_directory(self._data):
                self.own = is_marked(head)
                self._frames = count_frames(
                    lambda length: head if length <= HEAD_BYTES else self.read(length), self.info.size
                )
        except PermanentError as error:
            self.answered, self._error = True, error

    def look(self) -> Head:
        """As for all leaves, without asking the store."""
        return Head(self._data, self.info.size, self.info.modified)

    def read(self, length: int = -1) -> bytes:
        """As of all leaves."""
        if length < 0:
            return self._source.get(self._bucket, self.file)
        return self._source.head(self._bucket, self.file, length)

    def is_result(self, head: bytes) -> bool:
        """As for all leaves, without asking the store."""
        return self.own

    def frames(self, head: bytes, size: int) -> int:
        """As for all leaves; raises here what went wrong when it was looked into."""
        if self._error is not None:
            raise self._error
        return self._frames

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """A path at which it can be read piece by piece; raises `PermanentError` if it cannot be downloaded."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "archive"
            self._source.download(self._bucket, self.file, path)
            yield path


class Packed(Leaf):
    """A member of an archive; archives in archives were opened with it.

    Args:
        member: The member.
        archive: What it is in.
        unpack: Whether it is unpacked when it is looked at. If not, a member named like an image is not unpacked,
            and can be read only until the walk goes on.
    """

    packed = True

    def __init__(self, member: ArchiveMember, archive: Leaf, *, unpack: bool) -> None:
        inside = (*member.within, member.name)
        below = [f"{path}/{name}" for path in archive.paths for name in inside]
        super().__init__(f"{archive.name}/{member.name}", member.name, (*archive.paths, *(below or inside)))
        self.archive = self.compressed = False
        self.hidden = member.sidecar
        unread = self.answered and not unpack and member.refusal is None
        self._size = member.size if unread else None
        self._whole: Callable[[], bytes] = member.read

    def look(self) -> Head:
        """As for all leaves; raises the member's refusal."""
        if self.hidden:
            return Head(b"")
        if self._size is not None:
            return Head(b"", self._size)
        data = self._whole()  # now, while the archive is open
        self._whole = partial(bytes, data)
        return Head(data[:_SNIFFED_BYTES], len(data))

    def read(self, length: int = -1) -> bytes:
        """As of all leaves."""
        return self._whole()[: length if length >= 0 else None]


def is_image_name(name: str) -> bool:
    """Whether a name ends like that of a picture, or like a UID that a DICOM file is named by."""
    suffix = suffix_of(name)
    return suffix in _IMAGE_SUFFIXES or suffix[1:].isdecimal() or is_picture_name(name)


def suffix_of(file: str) -> str:
    """The suffix of a name in lower case, as ``PurePosixPath.suffix`` has it, in a tenth of the time."""
    stem, dot, end = file.rpartition("/")[2].rpartition(".")
    return (dot + end).lower() if stem and end else ""


def written(name: str) -> str:
    """The name as text: names on disk need not be UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()
