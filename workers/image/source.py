"""The source object of a job: read when its bytes are first needed, and known for what was really read."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from dermbatch import layout
from dermbatch.records.asked import ImageJob
from dermbatch.store import ObjectStore, Opened, split_uri


@dataclass
class Clock:
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
    """The object is not the one that was listed, so what is known is of another image."""


class Source:
    """A job's source object, read when it is first asked for.

    Args:
        job: Names it.
        store: Has it.
        max_bytes: Larger ones are refused.
        clock: Counts the time.
    """

    def __init__(self, job: ImageJob, store: ObjectStore, max_bytes: int, clock: Clock) -> None:
        self._job, self._store, self._max_bytes, self._clock = job, store, max_bytes, clock

    @property
    def frame(self) -> int | None:
        """Which frame of the object is meant, from 1; none where it is one image."""
        return self._job.frame

    @cached_property
    def body(self) -> bytes:
        """The object's bytes."""
        opened = self._opened  # counted by itself
        with self._clock("read"):
            return opened.read()

    @cached_property
    def sha256(self) -> str:
        """What the image is called by: their digest, and that of one frame where the job is for one."""
        return layout.identity(hashlib.sha256(self.body).hexdigest(), self._job.frame)

    @property
    def planned(self) -> str | None:
        """Its content by the digest of what planning uploaded; none where it was not planning that did."""
        return None if self._job.sha256 is None else layout.content(self._job.sha256, self.frame)

    @cached_property
    def vouched(self) -> str | None:
        """Its content by the digest that the store vouches for; none where it has none. Nothing is read for it."""
        digest = self._opened.sha256
        return None if digest is None else layout.content(digest, self.frame)

    @property
    def content(self) -> str:
        """Its content by what was really read."""
        return self.sha256[:32]

    def close(self) -> None:
        """Let go of the object, where it was opened and not read."""
        if "_opened" in self.__dict__ and "body" not in self.__dict__:
            self._opened.close()

    @cached_property
    def _opened(self) -> Opened:
        with self._clock("read"):
            return self._store.opened(*split_uri(self._job.source), max_bytes=self._max_bytes)
