"""A part of the local stack: one program, its log, when it counts as ready, and how it ends."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dermbatch.errors import StackError
from orchestrator.stack.logs import rotate

GUARD = "orchestrator.stack.guard"
"""The module of the program that runs around every part."""

_GUARD_EXTRA = 5.0  # seconds that the guard gets beyond the grace of its program
_POLL = 0.05
_LAST_LINES = 15


@dataclass
class Part:
    """A program under its guard (``guard.py``): it, and all it starts, ends with the process that started it.

    What counts is the process, not the thread; a fork of it does not keep the part alive.
    It runs in a session of its own, so Ctrl-C in a terminal reaches only the command, which stops parts in order.

    Args:
        name: What messages call it.
        argv: The program and its arguments.
        env: Its whole environment.
        log: File to which its output is appended.
        probe: Tells whether it is ready to serve; called until it says so, must not block for long.
        ready_timeout: Seconds within which it must be ready.
        grace: Seconds from SIGTERM to SIGKILL.
        cwd: Its working directory; the log's folder where not given.
        on_ready: Called each time that it became ready, also after a restart.
        telling: Pattern of the log lines that say why it failed, in case its last ones do not.
        leftovers: Glob pattern of files to remove once it has ended (shared memory).
    """

    name: str
    argv: Sequence[str] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    log: Path
    probe: Callable[[], bool]
    ready_timeout: float = 60.0
    grace: float = 10.0
    cwd: Path | None = None
    on_ready: Callable[[], None] | None = None
    telling: re.Pattern[str] | None = None
    leftovers: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _deadline: float = field(default=0.0, init=False, repr=False)
    _log_start: int = field(default=0, init=False, repr=False)
    _ready: bool = field(default=False, init=False, repr=False)

    def start(self) -> None:
        """Start the program; returns at once.

        Raises:
            StackError: If it already runs, or could not be started at all.
        """
        if self.running:
            raise StackError(f"{self.name} already runs as process {self.pid}")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        rotate(self.log)
        guarded = python_module(GUARD, str(os.getpid()), str(self.grace), self.leftovers, *self.argv)
        self._ready = False
        self._deadline = time.monotonic() + self.ready_timeout
        try:
            with self.log.open("ab") as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(
                    guarded,
                    env=dict(self.env),
                    cwd=self.cwd or self.log.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise StackError(f"{self.name} could not be started: {error}; its log is {self.log}") from error

    @property
    def pid(self) -> int | None:
        """Process id of the guard, also the id of the part's session; none before the first start."""
        return None if self._process is None else self._process.pid

    @property
    def program_pid(self) -> int | None:
        """Process id of the program itself; none where it does not run."""
        if not self.running or self.pid is None:
            return None
        with suppress(psutil.Error):
            children = psutil.Process(self.pid).children()
            return min(children, key=lambda child: child.create_time()).pid if children else None
        return None

    @property
    def running(self) -> bool:
        """Whether the program was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def ready(self) -> bool:
        """Whether it has answered its probe since it was last started, and still runs."""
        return self._ready and self.running

    def look(self) -> bool:
        """Probe once, unless it is ready already; true if it is ready.

        Raises:
            StackError: If it has ended, or was not ready in time (it is stopped then); names the log and shows
                its last lines.
        """
        if not self.running:
            status = None if self._process is None else self._process.returncode
            self._sweep()
            raise StackError(self._complaint(f"{self.name} ended early ({_say(status)})"))
        if self._ready:
            return True
        if self.probe():
            self._ready = True
            if self.on_ready is not None:
                self.on_ready()
        elif time.monotonic() > self._deadline:
            self.stop()
            raise StackError(self._complaint(f"{self.name} was not ready within {self.ready_timeout:g} s"))
        return self._ready

    def wait(self) -> None:
        """Wait until it is ready.

        Raises:
            StackError: As :meth:`look`.
        """
        while not self.look():
            time.sleep(_POLL)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM); returns at once."""
        if self.running and self._process is not None:
            self._process.terminate()

    def stop(self) -> None:
        """End it and everything that it started; returns when nothing is left."""
        self.terminate()
        if self._process is None:
            return
        try:
            self._process.wait(self.grace + _GUARD_EXTRA)
        except subprocess.TimeoutExpired:
            with suppress(psutil.NoSuchProcess):
                for descendant in psutil.Process(self._process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        descendant.kill()
            self._process.kill()
            self._process.wait()
        self._sweep()

    def last_lines(self, count: int = _LAST_LINES) -> str:
        """The last lines of its log since its last start, or the last telling ones if there are any."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start if self._log_start <= self.log.stat().st_size else 0)  # it was rotated
                lines = [line.decode(errors="replace") for line in log]
        except OSError:
            return ""
        telling = [line for line in lines if self.telling is not None and self.telling.search(line)]
        return "".join((telling or lines)[-count:]).rstrip()

    def _sweep(self) -> None:
        # A guard that was killed could not clean up: kill what is left in its session now.
        if self._process is not None and self._process.returncode == -signal.SIGKILL:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _complaint(self, what: str) -> str:
        return f"{what}; its log is {self.log}, which says:\n{self.last_lines() or '(nothing)'}"


def stop_all(parts: Sequence[Part]) -> None:
    """Stop several parts at the same time; returns when nothing is left of them."""
    for part in parts:
        part.terminate()
    for part in parts:
        part.stop()


def wait_all(parts: Sequence[Part]) -> None:
    """Wait until all parts are ready.

    Raises:
        StackError: As soon as one of them ends or is late.
    """
    waiting = list(parts)
    while waiting:
        waiting = [part for part in waiting if not part.look()]
        if waiting:
            time.sleep(_POLL)


def http_ok(port: int, path: str, *, host: str = "127.0.0.1", timeout: float = 1.0) -> bool:
    """Whether ``GET http://host:port/path`` answers 200: the usual probe."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def python_module(name: str, *arguments: str) -> list[str]:
    """Command that runs a module with this interpreter; without the working directory on its import path."""
    return [sys.executable, "-P", "-m", name, *arguments]


def _say(status: int | None) -> str:
    if status is None:
        return "never started"
    number = -status if status < 0 else status - 128
    if number > 0:
        with suppress(ValueError):
            return f"by {signal.Signals(number).name}"
    return f"exit status {status}"
