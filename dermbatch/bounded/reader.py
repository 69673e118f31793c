"""Reads untrusted files for a program, in as many processes as it has files at a time."""

from __future__ import annotations

import select
import signal
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from dermbatch.bounded.child import Errand
from dermbatch.bounded.limits import Limits
from dermbatch.bounded.messages import PIXELS, QUESTION, receive, send
from dermbatch.bounded.nursery import Nursery, ReaderProcess
from dermbatch.errors import BadInput, ReaderKilled

T = TypeVar("T")
P = ParamSpec("P")

_TASKS = 500
"""Files after which a process is replaced, and with it any memory that it has not given back."""


class _Killed(Exception):
    """Somebody has killed a reading process."""


class Reader:
    """Runs functions on untrusted files, in other processes; safe to share between threads.

    Args:
        limits: How much a file may take.
        modules: The modules that these processes need; loaded once.
        nursery: Where they come from; by default one of its own, started when it is first needed.
    """

    def __init__(self, limits: Limits, modules: Sequence[str], nursery: Nursery | None = None) -> None:
        self._limits, self._modules, self._nursery = limits, tuple(modules), nursery
        self._lock = threading.Lock()
        self._idle: list[tuple[ReaderProcess, int]] = []
        weakref.finalize(self, _end, self._idle)

    def run(
        self, function: Callable[Concatenate[bytes, P], T], data: bytes, *args: P.args, **named: P.kwargs
    ) -> T:
        """The result of a function on a file.

        Args:
            function: A function of a module, found by its name there.
            data: The whole file.
            args: Further arguments, which must be picklable, as must the result.
            named: Keyword arguments, likewise.

        Raises:
            TooExpensive: If it takes more than the limits allow; the message names the limit.
            BadInput: ``corrupt``, if a decoder has crashed; or whatever else the function raises.
            ReaderKilled: If somebody has killed the process twice.
        """
        errand = Errand(function, self._limits, args, named)
        for last in (False, True):
            child, done = self._taken()
            try:
                value = self._asked(child, errand, data)
            except _Killed:
                if last:
                    raise ReaderKilled(
                        "the process that reads the file was killed twice, perhaps because the machine ran out "
                        "of memory; it is tried again"
                    ) from None
                continue
            except BaseException:
                child.close()
                raise
            self._give_back(child, done + 1)
            if isinstance(value, BaseException):
                raise value
            return value  # type: ignore[no-any-return]
        raise AssertionError("the second time ends it")

    def warm(self) -> None:
        """Start a process, so that nobody waits for it."""
        child, done = self._taken()
        self._give_back(child, done)

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            _end(self._idle)
            if self._nursery is not None:
                self._nursery.close()
                self._nursery = None

    def _taken(self) -> tuple[ReaderProcess, int]:
        """A living process, and how many files it has read."""
        with self._lock:
            while self._idle:
                child, done = self._idle.pop()
                if child.alive:
                    return child, done
                child.close()
            for last in (False, True):
                if self._nursery is None:
                    self._nursery = Nursery(self._modules)
                try:
                    return self._nursery.child(), 0
                except OSError:
                    self._nursery = None
                    if last:
                        raise
        raise AssertionError("the second time ends it")

    def _give_back(self, child: ReaderProcess, done: int) -> None:
        if done >= _TASKS:
            child.close()
            return
        with self._lock:
            self._idle.append((child, done))

    def _asked(self, child: ReaderProcess, errand: Errand, data: bytes) -> Any:
        """What the function has returned, or the exception to be raised instead."""
        begun, pixels = time.monotonic(), 0
        try:
            send(child.work, QUESTION, errand, data)
        except ConnectionError:
            raise _Killed from None
        answered = select.poll()
        answered.register(child.work, select.POLLIN)
        while True:
            left = begun + self._limits.wall_for(pixels) - time.monotonic()
            if left <= 0 or not answered.poll(left * 1000):
                child.close()
                return self._limits.too_late(pixels)
            answer = receive(child.work)
            if answer is None:
                return self._death(child.status(), pixels)
            kind, value, _ = answer
            if kind != PIXELS:
                return value
            pixels = value

    def _death(self, status: int, pixels: int) -> BaseException:
        """What a child's death says about the file."""
        if status == -signal.SIGKILL:
            raise _Killed
        if status == -signal.SIGXCPU:
            return self._limits.too_long(pixels)
        by = signal.Signals(-status).name if status < 0 else f"exit code {status}"
        return BadInput(
            f"the decoder of this file has crashed ({by}): it is damaged; re-save the picture", reason="corrupt"
        )


def _end(idle: list[tuple[ReaderProcess, int]]) -> None:
    for child, _ in idle:
        child.close()
    idle.clear()
