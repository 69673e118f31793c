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
from dermbatch.store import ObjectStore, split_uri


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
        return self._read[0]

    @cached_property
    def sha256(self) -> str:
        """What the image is called by: their digest, and that of one frame where the job is for one."""
        return layout.identity(hashlib.sha256(self.body).hexdigest(), self._job.frame)

    @property
    def listed(self) -> str | None:
        """Its fingerprint by what a listing said of it; none where it was not listed."""
        return layout.fingerprint(self._job.source, self._job.etag, self._job.size, self._job.frame)

    @cached_property
    def fingerprint(self) -> str:
        """Of what was really read: since it was listed it may have been replaced."""
        body, etag = self._read
        etag = etag or hashlib.md5(body, usedforsecurity=False).hexdigest()  # what an ordinary ETag is
        return str(
            layout.fingerprint(self._job.source, etag, len(body), self._job.frame)
        )  # never none where both are known

    @cached_property
    def _read(self) -> tuple[bytes, str | None]:
        with self._clock("read"):
            return self._store.read(*split_uri(self._job.source), max_bytes=self._max_bytes)
