"""Images that wait and images in hand; time, as a simulation has it."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.scaling.nodes import Node
from dermbatch.records.asked import Lane


class EventQueue:
    """What is going to happen, in the order of time.

    Attributes:
        now: Seconds.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._ahead: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def at(self, time: float, happen: Callable[[], None]) -> None:
        """Have something happen then; of two at the same time, the one that was planned first."""
        heapq.heappush(self._ahead, (time, next(self._count), happen))

    def run(self) -> None:
        """Until nothing is ahead."""
        while self._ahead:
            self.now, _, happen = heapq.heappop(self._ahead)
            happen()


@dataclass(eq=False)
class Pod:
    """A worker or a Triton server.

    Attributes:
        fleet: What it is one of.
        node: Where it runs.
        ready: Whether it has started.
        leaving: Whether it takes nothing more.
        gone: Whether it has ended.
        jobs: In hand.
    """

    fleet: str
    node: Node
    ready: bool = False
    leaving: bool = False
    gone: bool = False
    jobs: list[Job] = field(default_factory=list)


@dataclass(eq=False)
class Job:
    """Images that a worker slot has in hand, one after the other; several only of bulk, to save time here.

    Attributes:
        lane: Theirs.
        images: How many.
        arrived: When.
        began: When the slot took them.
        worker: Whose slot.
        asked: When they came to Triton.
        held: Whether the slot still has them.
    """

    lane: Lane
    images: int
    arrived: float
    began: float
    worker: Pod
    asked: float = 0.0
    held: bool = True

    def left(self, now: float, seconds: float) -> int:
        """Images without an outcome, where each takes so many seconds; at least one."""
        return max(1, self.images - int((now - self.began) / seconds))


@dataclass
class WaitingLine:
    """The images of a lane that wait, the longest first."""

    lane: Lane
    waiting: int = 0
    _entries: deque[tuple[float, int, bool]] = field(default_factory=deque)

    def add(self, arrived: float, images: int) -> None:
        """New ones."""
        self._entries.append((arrived, images, True))
        self.waiting += images

    def put_back(self, arrived: float, images: int) -> None:
        """Ones that somebody had in hand; they are next."""
        self._entries.appendleft((arrived, images, False))
        self.waiting += images

    def take(self, most: int, worker: Pod, now: float) -> tuple[Job, bool]:
        """The next ones, and whether this is the first time that they are taken."""
        arrived, images, first = self._entries.popleft()
        taken = min(images, most)
        if images > taken:
            self._entries.appendleft((arrived, images - taken, first))
        self.waiting -= taken
        return Job(self.lane, taken, arrived, now, worker), first


@dataclass
class Integral:
    """The integral of something that jumps, over time."""

    level: float = 0.0
    _total: float = 0.0
    _since: float = 0.0

    def add(self, change: float, now: float) -> None:
        """It jumps by so much."""
        self._total, self._since = self.total(now), now
        self.level += change

    def total(self, now: float) -> float:
        """Until now."""
        return self._total + self.level * (now - self._since)
