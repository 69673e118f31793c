"""A stack that keeps running: started detached, found again by its home, and ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from dermbatch.errors import DermbatchError, StackError
from dermbatch.settings import Settings, StoreSettings
from orchestrator.stack.environment import base_environment, settings_environment, without_salt
from orchestrator.stack.logs import rotate
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import python_module, stop_all, wait_all
from orchestrator.stack.servers.s3 import s3_part
from orchestrator.stack.stack import Stack
from orchestrator.stack.state import Lock, StackState, logs_path, make_home, read_state, wait_gone

_CHECK = 1.0  # seconds between two looks at the parts
_STOP_TIMEOUT = 50.0  # beyond the grace of its workers
_KILLED_TIMEOUT = 20.0


def up(
    home: Path,
    settings: Settings,
    *,
    workers: int = 1,
    live_slots: int = 1,
    model_repository: Path,
    desk: bool = False,
    timeout: float = 240.0,
) -> Settings:
    """Start a stack that outlives this process and wait until it serves.

    Args:
        home: Its folder.
        settings: As for :class:`Stack`.
        workers: As for :class:`Stack`.
        live_slots: As for :class:`Stack`.
        model_repository: As for :class:`Stack`.
        desk: As for :class:`Stack`.
        timeout: Seconds to wait.

    Returns:
        Settings that lead to it.

    Raises:
        HomeInUse: If another one, or a command, has its folder.
        HomeUnusable: If that cannot be made.
        StackError: If it does not come up; nothing is left running then. Names the log.
    """
    home = home.resolve()
    make_home(home)
    Lock(home).release()  # otherwise only the log of a process that fails to start would say so
    log = logs_path(home) / "stack.log"
    rotate(log)
    argv = python_module(
        "orchestrator.stack",
        f"--home={home}",
        f"--workers={workers}",
        f"--live-slots={live_slots}",
        f"--model-repository={model_repository.resolve()}",
        *(["--desk"] if desk else []),
    )
    begin = log.stat().st_size if log.exists() else 0
    pid = _spawn(argv, {**base_environment(os.environ), **settings_environment(without_salt(settings))}, log)
    try:
        return _wait_for(home, pid, log, begin, timeout)
    except BaseException:  # interrupted, too: nobody expects what did not say that it runs
        _end(pid, settings)
        raise


def _wait_for(home: Path, pid: int, log: Path, begin: int, timeout: float) -> Settings:
    """Wait until the stack of this process serves.

    Raises:
        StackError: If it ends, or does not serve in time.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        state = read_state(home)
        if state is not None and state.pid == pid and state.status == "running":
            return attach(home)
        if not wait_gone([pid], 0):
            raise StackError(f"the stack did not start; its log {log} says:\n{_tail(log, begin)}")
        time.sleep(0.1)
    raise StackError(f"the stack did not start within {timeout:g} s; its logs are in {logs_path(home)}")


def attach(home: Path) -> Settings:
    """The settings that lead to the stack running in this home.

    Raises:
        StackError: If none is running.
    """
    return Settings(**running(home).settings)


@contextmanager
def object_store(home: Path, settings: StoreSettings, *, make: bool = False) -> Iterator[StoreSettings]:
    """The object store of a stack that is not running, started on its own for as long as this lasts.

    Args:
        home: Home of the stack.
        settings: Buckets and time-outs that it had.
        make: Create an empty one if no stack ever ran in this home.

    Raises:
        StackError: If none ever ran in this home, or one runs now, or the store does not come up.
    """
    home = home.resolve()
    if make:
        make_home(home)
    elif not (home / "s3").is_dir():
        raise StackError(
            f"no stack is running in {home}, and none ever was; start one with: dermbatch up --home {home}"
        )
    lock = Lock(home, "fetch")
    try:
        log, (port,) = logs_path(home) / "s3.log", free_ports(1)
        part, store, _ = s3_part(home / "s3", log, port, base_environment(os.environ), settings)
        try:
            part.start()
            wait_all([part])
            yield store
        finally:
            stop_all([part])
    finally:
        lock.release()


def running(home: Path) -> StackState:
    """The state of the stack that serves in this home: process ids, ports, logs.

    Raises:
        StackError: If none is running, or it is still starting.
    """
    home = home.resolve()
    state = read_state(home)
    if state is None or not state.alive:
        raise StackError(f"no stack is running in {home}; start one with: dermbatch up --home {home}")
    if state.status != "running":
        raise StackError(f"the stack in {home} is still starting; try again in a moment")
    return state


def down(home: Path) -> None:
    """End the stack running in this home; returns when none of its processes is left.

    Raises:
        StackError: If none is running, or it does not end.
    """
    home = home.resolve()
    state = read_state(home)
    if state is None or not state.alive:
        raise StackError(f"no stack is running in {home}")
    _end(state.pid, Settings(**state.settings))
    parts = [part.pid for part in state.parts.values() if part.pid is not None]
    if left := wait_gone(parts, _KILLED_TIMEOUT):
        raise StackError(f"processes of the stack in {home} do not end: {left}; kill them")


def serve(stack: Stack) -> None:
    """Host a stack until SIGTERM or SIGINT, then stop it. To be called from the main thread.

    Raises:
        StackError: If it does not start, or a part cannot be kept running.
    """
    asked: list[int] = []

    def leave(number: int, _frame: FrameType | None) -> None:
        # A further signal must not interrupt the orderly end.
        if not asked:
            asked.append(number)
            raise _Ended("asked to end")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    with suppress(_Ended), stack:
        print(f"the stack is running in {stack.home}", flush=True)
        while not asked:  # because Python drops what a signal handler raises within a destructor
            time.sleep(_CHECK)
            for sentence in stack.check():
                print(sentence, flush=True)


class _Ended(DermbatchError):
    """The host was asked to end, perhaps while it was still starting."""


def _spawn(argv: list[str], env: dict[str, str], log: Path) -> int:
    # Not subprocess: that would count a process which is meant to outlive this one as forgotten.
    out = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        argv[0],
        argv,
        env,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), out, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _end(pid: int, settings: Settings) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    if wait_gone([pid], settings.worker.grace + _STOP_TIMEOUT):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # the guards end the parts
        wait_gone([pid], _KILLED_TIMEOUT)


def _tail(log: Path, begin: int, count: int = 25) -> str:
    with log.open("rb") as file:
        file.seek(begin)
        return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
