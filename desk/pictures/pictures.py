"""Pictures that were decoded lately, on the disk of one replica; decoded by another process.

A decoder of strangers' files may crash, hang, or take much memory: the process that it does so in is another one,
and is replaced.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import resource
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from dermbatch.errors import BadInput
from desk.pictures.layers import made
from desk.pictures.pyramid import Pyramid, build, opened
from desk.problems import Problem

_SECONDS = 60
_MEMORY = 6 << 30
_TASKS = 100

Files = Callable[[], dict[str, bytes]]


class Pictures:
    """Decoded pictures, up to so many bytes.

    Args:
        most: Bytes.
        max_pixels: Larger pictures are refused.
    """

    def __init__(self, most: int, max_pixels: int) -> None:
        self._most, self._max_pixels = most, max_pixels
        self._folder = Path(tempfile.mkdtemp(prefix="dermbatch-desk-"))
        self._lock, self._building = threading.Lock(), threading.Lock()
        self._held: OrderedDict[str, int] = OrderedDict()
        self._pool: ProcessPoolExecutor | None = None

    def warm(self) -> None:
        """Start the process that decodes, so that nobody waits for it."""
        with self._building:
            self._process().submit(_bounded)

    def get(self, identity: str, layer: str, frame: int | None, files: Files) -> Pyramid:
        """A layer of an image, decoded where it is not at hand.

        Args:
            identity: Another one where any of its files is another.
            layer: Which.
            frame: Of the source.
            files: Gives the files that it is made of.

        Raises:
            BadInput: Where the source is no image.
            Problem: Where the decoder gave up.
        """
        name = hashlib.sha256(f"{identity} {layer}".encode()).hexdigest()[:32]
        if (found := self._at_hand(name)) is not None:
            return found
        with self._building:  # one at a time: memory is bounded by it
            if (found := self._at_hand(name)) is not None:
                return found
            draft = Path(tempfile.mkdtemp(dir=self._folder))
            try:
                self._run(layer, files(), frame, draft)
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
        if self._pool is not None:
            _end(self._pool)
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

    def _run(self, layer: str, files: dict[str, bytes], frame: int | None, folder: Path) -> None:
        pool = self._process()
        try:
            pool.submit(_decode, layer, files, frame, self._max_pixels, folder).result(_SECONDS)
        except (BrokenProcessPool, TimeoutError) as error:
            _end(pool)
            self._pool = None
            raise BadInput("this image cannot be shown: its decoder gave up", reason="corrupt") from error

    def _process(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                1, mp_context=context, initializer=_bounded, max_tasks_per_child=_TASKS
            )
        return self._pool


def _end(pool: ProcessPoolExecutor) -> None:
    """End a pool whatever it does; shutting it down would wait for that."""
    for process in list((pool._processes or {}).values()):
        process.kill()
    pool.shutdown(cancel_futures=True)


def _bounded() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _decode(layer: str, files: dict[str, bytes], frame: int | None, max_pixels: int, folder: Path) -> None:
    build(made(layer, files, frame, max_pixels), folder)
