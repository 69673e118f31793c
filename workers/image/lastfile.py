"""The file whose frame was the last image: its other frames come next, and need not read it all again.

A frame is identified by its whole file, and all bytes are needed to prove its pixels, so reading a part of the
file would not do. Read once by each worker process, the file costs a frame next to nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock, Timer

from dermbatch.records.asked import ImageJob

_IDLE_S = 30.0


@dataclass(frozen=True)
class Held:
    """A file's bytes, and their SHA-256 in hexadecimal digits."""

    body: bytes
    sha256: str

    @classmethod
    def of(cls, body: bytes) -> Held:
        """With the digest."""
        return cls(body, hashlib.sha256(body).hexdigest())


class LastFile:
    """Holds one file, for the frames of one batch, until another image comes or nobody asked for a while.

    Within those seconds, frames come from the file as it was read, even if its object is replaced meanwhile, so
    they never mix two files.

    Args:
        idle: Seconds until it is released.
    """

    def __init__(self, idle: float = _IDLE_S) -> None:
        self._idle, self._lock = idle, Lock()
        self._of: tuple[str, str] | None = None
        self._held: Held | None = None
        self._timer: Timer | None = None

    def of(self, job: ImageJob, read: Callable[[], bytes]) -> Held:
        """The file of a job: held since the previous frame, or read now, and held if the job is for a frame.

        Raises:
            DermbatchError: What ``read`` raises.
        """
        asked = (job.batch, job.source)
        with self._lock:
            held = self._held if self._of == asked and job.frame is not None else None
            self._let_go()
        if held is None:
            held = Held.of(read())
        if job.frame is not None:
            self._hold(asked, held)
        return held

    def let_go(self) -> None:
        """Release the file."""
        with self._lock:
            self._let_go()

    def _hold(self, asked: tuple[str, str], held: Held) -> None:
        with self._lock:
            self._of, self._held = asked, held
            self._timer = Timer(self._idle, self.let_go)
            self._timer.daemon = True
            self._timer.start()

    def _let_go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._of = self._held = self._timer = None
