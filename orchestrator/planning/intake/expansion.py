"""What a leaf expands to: itself, or what it holds, one by one, so that a walk can resume in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import PurePosixPath

from dermbatch.archives.archive import is_archive, is_archive_name, is_compressed_name, members
from dermbatch.archives.compressed import HEAD_BYTES as COMPRESSED_HEAD
from dermbatch.archives.compressed import compression, unpacked_head
from dermbatch.bounded.reader import Reader
from dermbatch.errors import PermanentError
from dermbatch.images.dicomhead import is_directory
from dermbatch.images.imagefile import sniff
from dermbatch.records.asked import Position
from dermbatch.records.marks import own_result
from dermbatch.settings import ArchiveSettings
from orchestrator.planning.intake.candidates import Candidate, Item, LeftOut, Skipped, refused, unreadable
from orchestrator.planning.intake.dicomdir import gone, referenced
from orchestrator.planning.intake.formats import unopened, untaken
from orchestrator.planning.intake.leaf import File, Head, Leaf, Object, Packed, is_image_name
from orchestrator.planning.intake.selection import Selection

_SAY_NOTHING = frozenset({"", ".dat", ".bin", ".tmp", ".bak", ".old", ".part", ".cbz", ".cbt"})
"""Endings of files whose bytes decide if they are opened as archives; most modern documents are zip files, too."""
Node = Leaf | Item
"""What a walk comes across: something to look at, or a known item."""


@dataclass(frozen=True)
class Expansion:
    """Decides what leaves are.

    Attributes:
        selection: Which leaves are taken.
        max_bytes: Largest file or object that becomes an image.
        limits: Of archives.
        reader: Reads whole files, in a process that can be stopped.
        unpack: Whether members of archives that have an image's name are unpacked.
    """

    selection: Selection
    max_bytes: int
    limits: ArchiveSettings
    reader: Reader
    unpack: bool = True

    def items(self, found: Node, at: Position, taken: int = 0) -> Iterator[Item]:
        """The items that a leaf expands to.

        Args:
            found: The leaf.
            at: The position after all of it.
            taken: How many of its contents were taken before, and are left out.
        """
        if not isinstance(found, Leaf):
            yield replace(found, position=at)
            return
        try:
            held = self._decided(found, at)
            if isinstance(held, Iterator):
                yield from self._after(held, at, taken)
            elif not (taken and isinstance(held, Candidate) and held.refusal is None):  # it held several then
                yield held
        except PermanentError as error:
            yield refused(found.name, error, at)

    def matters(self, leaf: Object) -> bool:
        """Whether it matters what an object that is no archive holds."""
        info = leaf.info
        return self._takes(leaf) and self.selection.times(info.modified) and info.size <= self.max_bytes

    def _after(self, held: Iterator[Node], at: Position, taken: int) -> Iterator[Item]:
        number = 0
        for one in held:
            # Including those taken before: they count against what an archive may unpack to, so that
            # resuming gives the same as never having stopped.
            for item in self.items(one, at):
                number += 1
                if number > taken:
                    yield replace(item, position=Position(input=at.input, after=at.after, taken=number))

    def _takes(self, leaf: Leaf) -> bool:
        return self.selection.names(leaf.paths, archive=leaf.archive)

    def _decided(self, leaf: Leaf, at: Position) -> Item | Iterator[Node]:
        """The leaf as one item, or all that it holds."""
        if not self._takes(leaf):
            return LeftOut(leaf.name, at)
        head = leaf.look()
        if not self.selection.times(head.modified):
            return LeftOut(leaf.name, at)
        if leaf.hidden:
            return Skipped(leaf.name, at, "sidecar")
        if not leaf.named and leaf.own:
            return Skipped(leaf.name, at, "own_result")
        if (error := unopened(leaf.file, head.data)) is not None:
            raise error
        return self._expanded(leaf, head.data) or self._image(leaf, head, at)

    def _expanded(self, leaf: Leaf, head: bytes) -> Iterator[Node] | None:
        """Members of an archive, files of a DICOMDIR that the user named, or files missing from one; else none."""
        if isinstance(leaf, File | Object):
            if leaf.archive or (is_archive(head) and (leaf.named or leaf.suffix in _SAY_NOTHING)):
                return self._members(leaf)
            if leaf.compressed and compression(head) and self._matters_inside(leaf):
                return self._members(leaf)
        if isinstance(leaf, File | Object) and is_directory(head) and leaf.named:
            return referenced(leaf, self.reader)
        if isinstance(leaf, File) and is_directory(head) and (lost := gone(leaf, self.reader)):
            return chain([Skipped(leaf.name)], lost)
        return None

    def _matters_inside(self, leaf: Leaf) -> bool:
        """Whether a compressed file may hold a picture or an archive, judged by its stem or its bytes."""
        inside = PurePosixPath(leaf.file).stem
        if (
            leaf.named
            or is_archive_name(inside)
            or is_compressed_name(inside)
            or "." not in inside
            or is_image_name(inside)
        ):
            return True
        data = unpacked_head(leaf.read(COMPRESSED_HEAD), 512)
        return data is not None and (sniff(data) is not None or is_archive(data))

    def _members(self, archive: File | Object) -> Iterator[Node]:
        with archive.on_disk() as path:
            try:
                for member in members(path, self.limits, name=archive.file, sidecars=True):
                    yield Packed(member, archive, unpack=self.unpack)
            except OSError as error:
                raise unreadable(error) from error

    def _image(self, leaf: Leaf, head: Head, at: Position) -> Item | Iterator[Node]:
        """The leaf as one image, as one image for each frame, or as none."""
        data, size, _ = head
        if not leaf.is_image(data):
            return Skipped(leaf.name, at)
        if leaf.is_result(data):
            if not leaf.named:
                return Skipped(leaf.name, at, "own_result")
            raise own_result()
        if data and sniff(data) in (None, "application/zip") and (error := untaken(leaf.file, data)) is not None:
            raise error
        if size > self.max_bytes and not leaf.packed:
            text = f"the file has {size:,} bytes, more than the limit of {self.max_bytes:,}"
            raise PermanentError(text, reason="too_large")
        try:
            count = leaf.frames(data, size)
        except PermanentError as error:
            return refused(leaf.name, error, at, size)
        read = leaf.read if leaf.looked else None
        image = Candidate(leaf.name, read, leaf.uri, size, etag=leaf.etag, packed=leaf.packed, position=at)
        if count == 1:
            return image
        return (replace(image, name=f"{leaf.name}#frame={frame}", frame=frame) for frame in range(1, count + 1))
