"""The loop itself: strikes while the batch goes on, mends what was killed, and waits for the end."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from benchmarks.killloop.faults import KILLS, REAL_KILLS
from benchmarks.killloop.house import House
from benchmarks.killloop.proxy import Mood

_TICK = 0.05
_LEAST_PAUSE = 0.15  # seconds between two faults, however fast the batch goes
_LONGEST_PAUSE = 6.0  # without progress the next one comes anyway
_BUSY_UNTIL = 0.95  # share of the images by which the last fault has come
_HOUR = 3600


@dataclass
class LoopOutcome:
    """How a loop went.

    Attributes:
        struck: How often each kind of fault came, SIGKILLs that met a process only.
        seconds: From the start of the programs to the end of the batch, or to the deadline.
        ended: Whether the batch ended before the deadline.
    """

    struck: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    ended: bool = False

    @property
    def kills(self) -> int:
        """SIGKILLs."""
        return sum(count for kind, count in self.struck.items() if kind in KILLS or kind in REAL_KILLS)


class Loop:
    """One batch under fire.

    Args:
        house: Its servers run and hold the batch; its programs do not run yet.
        listed: Kinds of faults in order.
        images: Of the batch: the faults are spread over them.
        seed: Of whom a fault strikes, and for how long.
    """

    def __init__(self, house: House, listed: list[str], images: int, seed: int) -> None:
        self._house = house
        self._listed = listed
        self._images = images
        self._rng = random.Random(seed)
        self._undo: dict[str, tuple[float, Callable[[], None]]] = {}
        self._offset = 0
        self._next = 0
        self._last = 0.0
        self.outcome = LoopOutcome()

    def run(self, ended: Callable[[], bool], deadline: float) -> LoopOutcome:
        """Strike until all faults have come, and go on until the batch has ended or the deadline has passed.

        Args:
            ended: Whether the batch has ended.
            deadline: Seconds.
        """
        start = self._last = time.monotonic()
        self._house.start_programs()
        looked = 0.0
        while (now := time.monotonic()) - start < deadline:
            self._house.mend()
            self._calm(now)
            if self._next < len(self._listed) and self._is_time(now):
                self._strike(self._listed[self._next])
                self._next, self._last = self._next + 1, time.monotonic()
            if now - looked > 1:
                looked = now
                if ended():
                    self.outcome.ended = True
                    break
            time.sleep(_TICK)
        self.outcome.seconds = time.monotonic() - start
        return self.outcome

    @property
    def struck_all(self) -> bool:
        """Whether every fault of the list has come and gone."""
        return self._next == len(self._listed) and not self._undo

    def _is_time(self, now: float) -> bool:
        waited = now - self._last
        due = self._images * _BUSY_UNTIL * (self._next + 1) / (len(self._listed) + 1)
        return waited > _LEAST_PAUSE and (self._house.recorded() >= due or waited > _LONGEST_PAUSE)

    def _strike(self, kind: str) -> None:
        if self._act(kind):
            self.outcome.struck[kind] += 1
        elif self._next > 0 or kind in KILLS:
            # Nobody was there to be killed just then: somebody will be, after the next fault.
            self._listed.insert(self._next + 1, kind)

    def _act(self, kind: str) -> bool:
        house, rng = self._house, self._rng
        match kind:
            case "pool process":
                return house.kill_pool_process(rng)
            case "reading process" | "nursery":
                return house.kill_reader(rng, nursery=kind == "nursery")
            case "worker" | "orchestrator":
                return house.kill_one_of(kind, rng)
            case "triton":
                return house.kill("triton")
            case "Redis" | "Redis, data deleted":
                return house.kill_redis(rng, data_too=kind != "Redis")
            case "Redis full":
                house.fill_redis(True)
                self._later("full", rng.uniform(1, 4), lambda: house.fill_redis(False))
            case "S3 errors" | "S3 slow" | "S3 cuts":
                mood = Mood(kind={"S3 errors": "error", "S3 slow": "slow", "S3 cuts": "cut"}[kind], share=0.5)
                house.chaos(mood)
                self._later("S3", rng.uniform(1, 4), lambda: house.chaos(Mood()))
            case "clock forward" | "clock back":
                sign = 1 if kind == "clock forward" else -1
                self._offset += sign * rng.choice((10, 60, 600, _HOUR))
                if house.clock is not None:
                    house.clock.step(self._offset)
        return True

    def _later(self, what: str, seconds: float, undo: Callable[[], None]) -> None:
        self._undo[what] = (time.monotonic() + seconds, undo)

    def _calm(self, now: float) -> None:
        for what, (when, undo) in list(self._undo.items()):
            if now >= when:
                with suppress(OSError):
                    undo()
                    del self._undo[what]
