"""An ``s3://bucket/prefix`` as input: its objects, and what those are whose names do not tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

from dermbatch.archives.archive import is_archive_name
from dermbatch.errors import PermanentError
from dermbatch.images.dicomhead import HEAD_BYTES, is_directory
from dermbatch.images.imagefile import DICOM, SUPPORTED, sniff
from dermbatch.store import ObjectInfo, ObjectStore
from orchestrator.planning.intake.frames import count_frames

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic"})
IMAGE_SUFFIXES = DICOM_SUFFIXES | {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif"
}  # fmt: skip

_LOOKS_AT_A_TIME = 16
_AHEAD = 256
"""Objects of a listing looked into together, where their names do not tell what they are."""


@dataclass(frozen=True)
class Looks:
    """What an object looks like.

    Attributes:
        image: Whether it is to be answered for.
        frames: How many images it holds.
        error: Why that cannot be known.
    """

    image: bool
    frames: int = 1
    error: PermanentError | None = None

    def count(self) -> int:
        """``frames``; raises ``error`` where there is one."""
        if self.error is not None:
            raise self.error
        return self.frames


@dataclass(frozen=True)
class Prefix:
    """An ``s3://`` input."""

    source: ObjectStore
    bucket: str
    prefix: str

    def list(self, after: str) -> Iterator[ObjectInfo]:
        """Its objects whose keys come after this one."""
        return self.source.list(self.bucket, self.prefix, start_after=after)

    def below(self, key: str) -> str | None:
        """The path of an object below the prefix; none where the user named the object itself."""
        return None if key == self.prefix and not key.endswith("/") else key[len(self.prefix) :].lstrip("/")

    def looked_at(
        self, infos: Iterator[ObjectInfo], wanted: Callable[[ObjectInfo], bool]
    ) -> Iterator[tuple[ObjectInfo, Looks]]:
        """Objects, and what they look like: by content where the name does not tell, or tells that it is DICOM.

        A DICOM file's name may be its UID, whose last number then looks like a suffix; and how many frames it
        has is in its header only.

        Args:
            infos: The objects.
            wanted: Whether it matters what an object looks like.
        """

        def look(info: ObjectInfo) -> Looks:
            named = self.below(info.key) is None
            if _tells(info.key):
                return Looks(image=has_image_name(info.key))
            if not info.size or not wanted(info):
                return Looks(image=named or has_image_name(info.key))
            try:
                return self._content(info, named or has_image_name(info.key))
            except PermanentError as error:
                return Looks(image=True, error=error)

        with ThreadPoolExecutor(_LOOKS_AT_A_TIME) as pool:
            while chunk := list(islice(infos, _AHEAD)):
                told = all(_tells(info.key) for info in chunk)
                yield from zip(chunk, (map if told else pool.map)(look, chunk), strict=True)

    def _content(self, info: ObjectInfo, image: bool) -> Looks:
        head = self.source.head(self.bucket, info.key, HEAD_BYTES)
        kind = sniff(head[:256])
        if kind != DICOM:
            return Looks(image or kind in SUPPORTED)
        if is_directory(head[:512]):
            return Looks(self.below(info.key) is None)

        def read(length: int) -> bytes:
            return head if length <= HEAD_BYTES else self.source.head(self.bucket, info.key, length)

        return Looks(image=True, frames=count_frames(read))


def has_image_name(key: str) -> bool:
    """Whether a name ends as images' names do."""
    return PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES


def _tells(key: str) -> bool:
    """Whether a name alone says all: an archive, or an image of one frame."""
    return is_archive_name(key) or PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES - DICOM_SUFFIXES
