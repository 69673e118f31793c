"""CPU time and memory of families of processes, as the kernel counts them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import psutil

_EVERY = 5.0  # seconds between two looks at the memory, which cost some milliseconds a process


@dataclass
class Meter:
    """Measures while inside; this process is one family more, ``command``, unless it heads one.

    Args:
        families: First process of each family, by name.

    Attributes:
        cpu: CPU seconds of each family while inside.
        seconds: Wall seconds.
        peak: Largest sum of their memory in bytes, each page's share (PSS), that was seen.
    """

    families: Mapping[str, int]
    cpu: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    peak: int = 0

    def __enter__(self) -> Self:
        """Begin."""
        self._roots = dict(self.families)
        self._alone = os.getpid() not in self._roots.values()
        if self._alone:
            self._roots["command"] = os.getpid()
        self._left, self._own = threading.Event(), 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._before, self._start = self._used(), time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self.seconds = time.monotonic() - self._start
        after = self._used()
        self.cpu = {name: after[name] - self._before[name] for name in after}
        self._left.set()
        self._thread.join()
        if self._alone:
            self.cpu["command"] -= self._own

    def _members(self, root: int) -> list[psutil.Process]:
        try:
            first = psutil.Process(root)
            return [first] if self._alone and root == os.getpid() else [first, *first.children(recursive=True)]
        except psutil.Error:
            return []

    def _used(self) -> dict[str, float]:
        """Of children that have ended too, as far as their parents have asked."""
        found = dict.fromkeys(self._roots, 0.0)
        for name, root in self._roots.items():
            for process in self._members(root):
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    found[name] += times.user + times.system
                    if root != os.getpid() or not self._alone:
                        found[name] += times.children_user + times.children_system
        return found

    def _look(self) -> None:
        while True:
            total = 0
            for root in self._roots.values():
                for process in self._members(root):
                    with suppress(psutil.Error):
                        total += process.memory_full_info().pss
            self.peak, self._own = max(self.peak, total), time.thread_time()
            if self._left.wait(_EVERY):
                return
