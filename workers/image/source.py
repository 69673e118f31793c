"""The source object of a job: read when its bytes are first needed, and identified by what was really read."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import unquote_to_bytes

from dermbatch import layout, metrics
from dermbatch.audit import Audit
from dermbatch.errors import ObjectNotFound, PermanentError, StoreUnavailable
from dermbatch.records.asked import ImageJob
from dermbatch.settings import WorkerSettings
from dermbatch.store import ObjectStore, Opened, split_uri, too_large
from workers.image.lastfile import Held, LastFile

_FILE = "file://"
_FOR_NOW = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EAGAIN, errno.EMFILE, errno.ENFILE}


@dataclass
class Stopwatch:
    """Seconds by what they were spent on."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Count the time inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[what] = round(self.seconds.get(what, 0.0) + spent, 6)


class SourceReplaced(Exception):
    """The object is not the one that was listed, so what is known belongs to another image."""


class Source:
    """A job's source object, read when it is first asked for.

    Args:
        job: Names the object.
        store: Holds the object.
        limits: Larger objects are refused, and so are files of this machine unless they may be read.
        stopwatch: Counts the time.
        last: What was read for the image before.
    """

    def __init__(
        self,
        job: ImageJob,
        store: ObjectStore,
        limits: WorkerSettings,
        stopwatch: Stopwatch,
        last: LastFile | None = None,
    ) -> None:
        self._job, self._store, self._limits, self._stopwatch = job, store, limits, stopwatch
        self._last = last or LastFile()
        self.bytes_read = 0
        """How many bytes were read for this job; none if the file was the previous one."""

    @property
    def event(self) -> str:
        """The id of the usage event that bills what is done for it."""
        return self._job.event

    @property
    def pool(self) -> str | None:
        """Whose known results it shares."""
        return self._job.order.pool

    @property
    def frame(self) -> int | None:
        """Which frame of the object is meant, from 1; none where it is one image."""
        return self._job.frame

    @cached_property
    def body(self) -> bytes:
        """The object's bytes."""
        return self._file.body

    @cached_property
    def sha256(self) -> str:
        """The name of the image: the digest of its bytes, or of a frame if the job is for one."""
        return layout.identity(self._file.sha256, self._job.frame)

    @property
    def planned(self) -> str | None:
        """Its content, by the digest of what planning read; none if planning did not read it."""
        return None if self._job.sha256 is None else layout.content(self._job.sha256, self.frame)

    @cached_property
    def vouched(self) -> str | None:
        """Its content, by the digest that the store vouches for, if any. Nothing is read for it."""
        digest = self._opened.sha256
        return None if digest is None else layout.content(digest, self.frame)

    @property
    def content(self) -> str:
        """Its content by what was really read."""
        return self.sha256[:32]

    def close(self) -> None:
        """Close the object, if it was opened but not read."""
        if "_opened" in self.__dict__ and "_file" not in self.__dict__:
            self._opened.close()

    @cached_property
    def _file(self) -> Held:
        if "_opened" in self.__dict__:  # and it may differ from the file that is held
            self._last.let_go()
        return self._last.of(self._job, self._read)

    def _read(self) -> bytes:
        opened = self._opened  # counted separately
        with self._stopwatch("read"):
            body = opened.read()
        self.bytes_read += len(body)
        return body

    @cached_property
    def _opened(self) -> Opened:
        with self._stopwatch("read"):
            if self._job.source.startswith(_FILE):
                return _file(self._job.source, self._store.audit, self._limits)
            return self._store.opened(*split_uri(self._job.source), max_bytes=self._limits.max_bytes)


def _file(uri: str, audit: Audit, limits: WorkerSettings) -> Opened:
    """A file of this machine.

    Raises:
        PermanentError: If it is gone, cannot be read, is larger than the limit, or such files may not be read.
        StoreUnavailable: If trying again may help: its disk, or the server that has it, fails.
    """
    if not limits.local_sources:
        raise PermanentError(
            f"{uri} is a file of the machine that planned it, which this worker may not read; "
            f"submit it from there, or upload it",
            reason="unreadable",
        )
    path = os.fsdecode(unquote_to_bytes(uri.removeprefix(_FILE)))
    with _sorted_errors(uri):
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise PermanentError(f"the file cannot be read: {uri} is no longer a regular file", reason="unreadable")
    if status.st_size > limits.max_bytes:
        file.close()
        raise too_large(status.st_size, limits.max_bytes)

    def read() -> bytes:
        with file, _sorted_errors(uri):
            body = file.read()
        audit.note("read", path, size=len(body))
        metrics.BYTES_READ.inc(len(body))
        return body

    return Opened(None, read, file.close)


@contextmanager
def _sorted_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectNotFound(f"{uri} has been removed since it was planned; submit it again") from error
    except OSError as error:
        if error.errno in _FOR_NOW:
            raise StoreUnavailable(f"{uri} cannot be read for now: {error.strerror}") from error
        raise PermanentError(f"the file cannot be read: {error.strerror}", reason="unreadable") from error
