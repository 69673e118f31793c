"""Recently decoded pictures, on the disk of one replica; decoded by another process.

A decoder of untrusted files may crash, hang, or take much memory, so it runs in another process, within the same
limits as in workers (:mod:`dermbatch.bounded`).
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dermbatch.bounded.limits import Limits
from dermbatch.bounded.reader import Reader
from dermbatch.images.imagefile import MODULES
from desk.pictures.layers import made
from desk.pictures.pyramid import Pyramid, build, opened
from desk.problems import Problem

_PATIENCE = 3  # seconds on the clock per processor second: somebody is waiting

Files = Callable[[], dict[str, bytes]]


class DecodedPictures:
    """Decoded pictures, up to a number of bytes.

    Args:
        most: Bytes.
        max_pixels: Larger pictures are refused.
        limits: What decoding one may take.
    """

    def __init__(self, most: int, max_pixels: int, limits: Limits) -> None:
        self._most, self._max_pixels = most, max_pixels
        self._folder = Path(tempfile.mkdtemp(prefix="dermbatch-desk-"))
        self._lock, self._building = threading.Lock(), threading.Lock()
        self._held: OrderedDict[str, int] = OrderedDict()
        self._reader = Reader(replace(limits, patience=_PATIENCE), (__name__, *MODULES))

    def warm(self) -> None:
        """Start the process that decodes, so that nobody waits for it."""
        self._reader.warm()

    def get(self, identity: str, layer: str, frame: int | None, files: Files) -> Pyramid:
        """A layer of an image, decoded if it is not cached.

        Args:
            identity: Differs whenever any of its files differs.
            layer: Which.
            frame: Frame of the source.
            files: Supplies the files that it is made from.

        Raises:
            BadInput: If the source is not an image, takes too much to read, or crashes its decoder.
            Problem: If there is no space for it.
        """
        name = hashlib.sha256(f"{identity} {layer}".encode()).hexdigest()[:32]
        if (found := self._at_hand(name)) is not None:
            return found
        with self._building:  # one at a time, which bounds memory
            if (found := self._at_hand(name)) is not None:
                return found
            draft = Path(tempfile.mkdtemp(dir=self._folder))
            try:
                self._reader.run(_decode, b"", layer, files(), frame, self._max_pixels, draft)
                draft.rename(self._folder / name)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
        self._keep(name)
        found = opened(self._folder / name)
        if found is None:
            raise Problem(503, "no_space", "the picture could not be kept; try again")
        return found

    def close(self) -> None:
        """End, and leave nothing on the disk."""
        self._reader.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _at_hand(self, name: str) -> Pyramid | None:
        with self._lock:
            if name not in self._held:
                return None
            self._held.move_to_end(name)
        return opened(self._folder / name)

    def _keep(self, name: str) -> None:
        with self._lock:
            self._held[name] = sum(file.stat().st_size for file in (self._folder / name).iterdir())
            while sum(self._held.values()) > self._most and len(self._held) > 1:
                old, _ = self._held.popitem(last=False)
                shutil.rmtree(self._folder / old, ignore_errors=True)


def _decode(
    _: bytes, layer: str, files: dict[str, bytes], frame: int | None, max_pixels: int, folder: Path
) -> None:
    build(made(layer, files, frame, max_pixels), folder)
