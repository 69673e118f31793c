"""The arena: memory shared with a Triton on the same machine, so that tensors need not be sent.

Triton knows it as a "system shared memory region". Its file in ``/dev/shm`` has a name only until Triton has
opened it, so nothing is left when the last of the two processes ends, however it ends.

Every way in which this cannot work (Triton elsewhere or too old, too little memory) only means that tensors go
within the messages. What could do harm is ruled out:

- A full ``/dev/shm`` kills whoever writes to an unallocated page: all pages are allocated beforehand.
- Triton may still write for an abandoned request, which must not overwrite the answer to another one: the arena is
abandoned with the request, and there is no new one until Triton has released it.
- Up to 2.49 Triton crashes if a region that is still in use is unregistered: such versions are not used.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import structlog
from numpy.typing import DTypeLike, NDArray
from tritonclient.utils import InferenceServerException

_log = structlog.get_logger(__name__)

Array = NDArray[Any]

_FOLDER = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lies on Linux, and Triton looks for it
_LEAST_VERSION = (2, 50)  # of Triton; https://github.com/triton-inference-server/server/pull/7567
_SPARE = 4  # times an arena's size that must be free: Triton's Python backend dies where it gets no memory there
_ALIGNMENT = 64  # bytes, which suits vector instructions and cache lines
_PATIENCE = 5.0  # seconds for each of Triton's answers
_REFUSED_PAUSE = 600.0  # seconds without another try where it cannot work
_LOST_PAUSE = 5.0  # the same after an arena was given up, and where Triton is not there
_DOWN = {"StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED"}


class Registrar(Protocol):
    """What is needed of Triton's client."""

    def get_server_metadata(self, *, client_timeout: float) -> Any:
        """Name and version."""

    def register_system_shared_memory(self, name: str, key: str, byte_size: int, *, client_timeout: float) -> None:
        """Make a region known."""

    def unregister_system_shared_memory(self, name: str, *, client_timeout: float) -> None:
        """Forget a region; harmless if it is unknown; refused or deferred while it is in use."""

    def get_system_shared_memory_status(self, *, client_timeout: float) -> Any:
        """All regions."""


class Arena:  # its memory goes back to the system with the last array in it
    """Memory of which requests take slices.

    Args:
        name: Under which Triton knows it.
        memory: All of it.
    """

    def __init__(self, name: str, memory: bytearray | mmap.mmap) -> None:
        self.name = name
        self._memory = memory
        self._lock = threading.Lock()
        self._free = [(0, len(memory))]  # (begin, end) in order, never two that touch

    def take(self, size: int) -> Slice | None:
        """A slice of at least ``size`` bytes, or none if there is no room."""
        size = padded(max(size, 1))
        with self._lock:
            for at, (begin, end) in enumerate(self._free):
                if end - begin >= size:
                    self._free[at : at + 1] = [(begin + size, end)] if end - begin > size else []
                    return Slice(self, begin, size)
        return None

    def give_back(self, slice_: Slice) -> None:
        """Take a slice back; once, and when nobody reads or writes it any more."""
        with self._lock:
            spans = sorted([*self._free, (slice_.offset, slice_.offset + slice_.size)])
            self._free = spans[:1]
            for begin, end in spans[1:]:
                last_begin, last_end = self._free[-1]
                if begin == last_end:
                    self._free[-1] = last_begin, end
                else:
                    self._free.append((begin, end))

    def view(self, offset: int, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """The array that lies at an offset."""
        return np.ndarray(shape, dtype, buffer=self._memory, offset=offset)


@dataclass(frozen=True)
class Slice:
    """A part of an arena that one request has for itself.

    Attributes:
        arena: The arena.
        offset: Where it begins there, in bytes.
        size: Bytes.
    """

    arena: Arena
    offset: int
    size: int


def padded(size: int) -> int:
    """Bytes that an array of ``size`` bytes takes of a slice, so that the next one is aligned."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class _NotNow(Exception):
    """Not possible now, but later."""


class SharedMemory:
    """Keeps one arena registered with Triton, for as long as that works. Without a client there is none.

    Args:
        size: Bytes of the arena; 0: none.
        prefix: What its name begins with.
    """

    def __init__(self, size: int, prefix: str) -> None:
        self._client: Registrar | None = None
        self._size = size // mmap.PAGESIZE * mmap.PAGESIZE
        self._prefix = f"{prefix}arena-"
        self._arena: Arena | None = None
        self._given_up: list[str] = []  # names of regions that Triton still has, or may have
        self._not_before = 0.0
        self._opening = threading.Lock()
        self._giving_up = threading.Lock()

    def connect(self, client: Registrar | None) -> None:
        """Use the Triton that this client leads to; none if it may be elsewhere, or several."""
        if self._arena is not None:
            self.give_up(self._arena, "the connection is another one")
        self._client = client

    def take(self, size: int) -> Slice | None:
        """A slice of the arena, which is created if needed; none if tensors must go by message."""
        client = self._client
        if client is None or size > self._size:
            return None
        arena = self._arena
        if arena is None:
            if time.monotonic() < self._not_before or not self._opening.acquire(blocking=False):
                return None
            try:
                arena = self._arena = self._arena or self._open(client)
            finally:
                self._opening.release()
        return None if arena is None else arena.take(size)

    def give_up(self, arena: Arena, why: str) -> None:
        """Stop taking slices of an arena: Triton has forgotten it, or may write to it at any time."""
        with self._giving_up:
            if self._arena is arena:
                _log.info("shared memory is given up", why=why)
                self._arena = None
                self._given_up.append(arena.name)
                self._not_before = time.monotonic() + _LOST_PAUSE

    def close(self) -> None:
        """Make Triton forget everything."""
        with self._opening:
            if self._arena is not None:
                self._given_up.append(self._arena.name)
                self._arena = None
            self._size = 0
            if self._client is not None:
                self._forget(self._client)
            self._given_up.clear()

    def _open(self, client: Registrar) -> Arena | None:
        try:
            self._check(client)
            arena = self._register(client, f"{self._prefix}{_owner(os.getpid())}-{secrets.token_hex(8)}")
        except _NotNow:
            self._not_before = time.monotonic() + _LOST_PAUSE
        except (OSError, InferenceServerException) as error:
            down = isinstance(error, InferenceServerException) and error.status() in _DOWN
            self._not_before = time.monotonic() + (_LOST_PAUSE if down else _REFUSED_PAUSE)
            if not down:
                _log.info("tensors go by message, not by shared memory", why=str(error))
        else:
            return arena
        return None

    def _check(self, client: Registrar) -> None:
        """Make sure that an arena can be had without harm."""
        version = client.get_server_metadata(client_timeout=_PATIENCE).version
        numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
        if numbers < _LEAST_VERSION:
            raise OSError(f"Triton {version} is too old")
        self._sweep(client)
        self._forget(client)
        known = client.get_system_shared_memory_status(client_timeout=_PATIENCE).regions
        if left := [name for name in self._given_up if name in known]:
            raise _NotNow(f"{left[0]} is still in use")
        self._given_up.clear()
        room = os.statvfs(_FOLDER)
        if room.f_bavail * room.f_frsize < _SPARE * self._size:
            raise OSError(f"{_FOLDER} has too little room: {room.f_bavail * room.f_frsize} bytes")

    def _register(self, client: Registrar, name: str) -> Arena:
        path = _FOLDER / name
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, self._size)
            try:
                # First, while it has no pages: most that may refuse it do so now.
                client.register_system_shared_memory(name, f"/{name}", self._size, client_timeout=_PATIENCE)
                os.posix_fallocate(file, 0, self._size)
                return Arena(name, mmap.mmap(file, self._size))
            except BaseException:
                self._given_up.append(name)
                raise
        finally:
            os.close(file)
            path.unlink(missing_ok=True)

    def _forget(self, client: Registrar) -> None:
        for name in self._given_up:
            with suppress(InferenceServerException):  # in use
                client.unregister_system_shared_memory(name, client_timeout=_PATIENCE)

    def _sweep(self, client: Registrar) -> None:
        """Make Triton forget what killed processes of this machine left, whose memory would never be freed."""
        regions = client.get_system_shared_memory_status(client_timeout=_PATIENCE).regions
        for name in [*regions, *(path.name for path in _FOLDER.glob(f"{self._prefix}*"))]:
            if name.startswith(self._prefix) and _is_orphan(name.removeprefix(self._prefix)):
                (_FOLDER / name).unlink(missing_ok=True)
                with suppress(InferenceServerException):
                    client.unregister_system_shared_memory(name, client_timeout=_PATIENCE)


def _owner(pid: int) -> str:
    """What tells a process from all others: its PID namespace, its id there and when it was started."""
    # The name in parentheses may hold anything; the start is the 22nd field.
    started = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    return f"{Path('/proc/self/ns/pid').stat().st_ino}-{pid}-{started}"


def _is_orphan(name: str) -> bool:
    """Whether the process that made a region of this name was visible to us, and is gone."""
    namespace, pid, *_ = [*name.split("-"), ""]
    if namespace != str(Path("/proc/self/ns/pid").stat().st_ino) or not pid.isdigit():
        return False
    try:
        return not name.startswith(f"{_owner(int(pid))}-")
    except (FileNotFoundError, ProcessLookupError):
        return True
