"""What a running stack publishes: ``stack.json`` in its home, and the lock that keeps a second one out."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import Field, ValidationError

from dermbatch.errors import HomeInUse, HomeUnusable
from dermbatch.records.asked import Record

_LOCK_TRIES = 10
_LOCK_PAUSE = 0.1


class PartState(Record):
    """One part: its guard's and its own process id, and its log."""

    pid: int | None
    program_pid: int | None
    log: str


def make_home(home: Path) -> None:
    """Make a stack's home and its log folder private to their owner, creating them if needed.

    Raises:
        HomeUnusable: If they cannot be made, or the servers cannot be told the name.
    """
    try:
        str(home).encode()
    except UnicodeEncodeError as error:
        raise HomeUnusable(
            "the folder's name is not UTF-8, which its servers need; name another folder"
        ) from error
    for folder in (home, logs_path(home)):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise HomeUnusable(f"{folder} cannot be made: {error.strerror}; name another folder") from error
        with suppress(PermissionError):  # owned by somebody else, who decides
            folder.chmod(0o700)


class StackState(Record):
    """``stack.json``: readable only by its owner, because it holds the queue's password."""

    pid: int
    created: float
    status: Literal["starting", "running"]
    ports: dict[str, int]
    parts: dict[str, PartState]
    settings: dict[str, Any] = Field(repr=False)

    @property
    def alive(self) -> bool:
        """Whether the process that hosts the stack still runs."""
        return process_alive(self.pid, self.created)


def state_path(home: Path) -> Path:
    """The state file of a stack's home."""
    return home / "stack.json"


def logs_path(home: Path) -> Path:
    """The folder with the log of every part."""
    return home / "logs"


def write_state(home: Path, state: StackState) -> None:
    """Replace the state file as a whole."""
    path = state_path(home)
    fresh = path.with_suffix(".json.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_bytes(state.model_dump_json(indent=2).encode())
    fresh.replace(path)


def read_state(home: Path) -> StackState | None:
    """The state of the stack that runs, or was killed, in this home; none if there is no complete one."""
    try:
        return StackState.model_validate_json(state_path(home).read_bytes())
    except (OSError, ValidationError):
        return None


def process_alive(pid: int, created: float | None = None) -> bool:
    """Whether a process is running (a zombie is not), and is the one created at this time."""
    try:
        process = psutil.Process(pid)
        if created is not None and abs(process.create_time() - created) > 1:
            return False
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_gone(pids: list[int], timeout: float) -> list[int]:
    """Wait until these processes have ended; returns those that have not."""
    deadline = time.monotonic() + timeout
    left = list(pids)
    while left:
        for pid in left:
            # Where it is a child of this process, collect it.
            with suppress(ChildProcessError, OSError):
                os.waitpid(pid, os.WNOHANG)
        left = [pid for pid in left if process_alive(pid)]
        if time.monotonic() > deadline:
            break
        if left:
            time.sleep(0.05)
    return left


Holder = Literal["up", "run", "fetch"]
"""What holds a home: a stack that keeps running, ``dermbatch run``, or a command that reads results."""


def _in_use(home: Path, pid: str, holder: str) -> str:
    if holder == "run":
        return (
            f"another dermbatch run, pid {pid}, writes into {home.parent}: wait until it has ended, or name "
            "another folder; nothing was started"
        )
    if holder == "fetch":
        return f"another command, pid {pid}, reads the results in {home}: try again when it has ended"
    return f"a stack is already running in {home}, pid {pid}; end it with: dermbatch down --home {home}"


class Lock:
    """The home is ours until this process ends or releases it: the kernel drops the lock with the process."""

    def __init__(self, home: Path, holder: Holder = "up") -> None:
        """Take the lock.

        Args:
            home: What it is of.
            holder: What takes it, to tell those who do not get it.

        Raises:
            HomeInUse: If another process has it; names it.
        """
        self._file = (home / "stack.lock").open("a+")
        for attempt in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if attempt + 1 == _LOCK_TRIES:
                    self._file.seek(0)
                    pid, _, other = self._file.read().partition(" ")
                    self._file.close()
                    raise HomeInUse(_in_use(home, pid or "unknown", other)) from None
                time.sleep(_LOCK_PAUSE)
            else:
                self._file.truncate(0)
                self._file.write(f"{os.getpid()} {holder}")
                self._file.flush()
                return

    def release(self) -> None:
        """Let another stack have the home."""
        self._file.close()
