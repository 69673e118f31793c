"""Child processes of a benchmark: it ends with the first of them that ends unasked, and says which one and why.

A benchmark that waits for what a dead process was to do would wait for its deadline and know no cause. So children
are looked after by a thread, whatever the benchmark is doing meanwhile; where one is dead, :class:`ChildDied` is
raised in the main thread, also out of a call that blocks.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

from dermbatch.errors import StackError
from orchestrator.stack.process import Part, stop_all, wait_all

_LOOK = 0.2  # seconds between two looks at the children
_AGAIN = 30.0  # seconds until the main thread is told once more, where something swallowed the exception
_LAST_LINES = 15


class ChildDied(SystemExit):
    """Ends the benchmark: exit status 1, and on standard error which child ended, how, and its last words."""


@dataclass(frozen=True)
class Child:
    """A process as the watch sees it.

    Attributes:
        name: What messages call it.
        complaint: Says how it ended and what its log says last; none while all is well.
    """

    name: str
    complaint: Callable[[], str | None]


def of_part(part: Part) -> Child:
    """A part of a stack, which was started."""
    return Child(part.name, lambda: None if part.running else complaint_of(part))


def complaint_of(part: Part) -> str:
    """One sentence about a part that has ended."""
    try:
        part.look()
    except StackError as error:
        return str(error)
    return f"{part.name} ended early"


def of_program(name: str, process: subprocess.Popen[bytes], log: Path) -> Child:
    """A program that is to run until it is told to end."""
    return Child(name, lambda: None if process.poll() is None else _sentence(name, process.poll(), log))


def of_process(process: multiprocessing.process.BaseProcess, log: Path) -> Child:
    """A process of :func:`spawned`, which may also end when its work is done."""
    return Child(
        process.name, lambda: _sentence(process.name, process.exitcode, log) if process.exitcode else None
    )


def spawned(name: str, log: Path, target: Callable[..., object], *arguments: Any) -> Child:
    """Start a function in a fresh process of Python whose output goes to a log."""
    context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    process = context.Process(target=_logged, args=(log, target, arguments), name=name, daemon=True)
    process.start()
    return of_process(process, log)


class Watch:
    """Sees that children live while inside; use it in the main thread.

    Args:
        children: Who is there at the beginning.
    """

    def __init__(self, *children: Child) -> None:
        self._children = {child.name: child for child in children}
        self._guard = threading.Lock()
        self._left = threading.Event()
        self._sentence: str | None = None
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def add(self, child: Child) -> None:
        """Look after one more."""
        with self._guard:
            self._children[child.name] = child

    def release(self, name: str) -> None:
        """Look after this one no longer: it is about to be ended."""
        with self._guard:
            self._children.pop(name, None)

    def check(self) -> None:
        """Raise :class:`ChildDied` where a child has ended: for loops in threads other than the main one."""
        with self._guard:
            complaints = [sentence for child in self._children.values() if (sentence := child.complaint())]
        if complaints:
            raise ChildDied("\n".join(complaints))

    def __enter__(self) -> Self:
        """Begin."""
        self._before = signal.signal(signal.SIGUSR1, self._end)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """End; the children may end now."""
        self._left.set()
        self._thread.join()
        signal.signal(signal.SIGUSR1, self._before)
        if self._sentence is not None and exc[0] is None:
            raise ChildDied(self._sentence)

    def _look(self) -> None:
        while not self._left.wait(_LOOK):
            try:
                self.check()
            except ChildDied as died:
                self._sentence = str(died)
                break
        pause = 0.0
        while not self._left.wait(pause):
            # A signal, for it also ends a call that blocks.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            pause = _AGAIN

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self._sentence is not None:
            raise ChildDied(self._sentence)
        if callable(self._before):  # of a watch around this one
            self._before(number, frame)


@contextmanager
def running(*parts: Part) -> Iterator[Watch]:
    """Start parts, wait until they are ready, and see that they live while inside; they are stopped in the end."""
    try:
        for part in parts:
            part.start()
        try:
            wait_all(parts)
        except StackError as error:
            raise ChildDied(str(error)) from error
        with Watch(*map(of_part, parts)) as watch:
            yield watch
    finally:
        stop_all(parts)


def _logged(log: Path, target: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    target(*arguments)


def _sentence(name: str, status: int | None, log: Path) -> str:
    how = signal.Signals(-status).name if status is not None and status < 0 else f"exit status {status}"
    try:
        lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    except OSError:
        lines = []
    log_tail = "\n".join(lines) or "(nothing)"
    return f"{name} ended early ({how}); its log says:\n{log_tail}"
