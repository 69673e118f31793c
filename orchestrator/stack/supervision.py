"""Restarts parts that died, with growing pauses, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dermbatch.errors import StackError
from orchestrator.stack.process import Part

MOST_RESTARTS = 5
WITHIN = 600.0
"""A part that dies more than ``MOST_RESTARTS`` times within these seconds is given up."""

_FIRST_PAUSE = 0.5


@dataclass
class Supervised:
    """A part that is started again when it dies.

    Args:
        part: The part, already started.
        clock: Monotonic seconds.
    """

    part: Part
    clock: Callable[[], float] = time.monotonic
    _deaths: list[float] = field(default_factory=list, init=False)
    _again_at: float | None = field(default=None, init=False)

    def look(self) -> list[str]:
        """Check whether it is alive; restart it once its pause is over. Does not wait for it.

        Returns:
            Sentences about what happened since the last look; empty where all is well.

        Raises:
            StackError: If it died too often; names its log.
        """
        now = self.clock()
        if self._again_at is not None:
            if now < self._again_at:
                return []
            self._again_at = None
            self.part.start()
            return [f"{self.part.name} is started again ({len(self._deaths)} of {MOST_RESTARTS})"]
        was_ready = self.part.ready
        try:
            is_ready = self.part.look()
        except StackError as error:
            return [self._bury(now, error)]
        return [f"{self.part.name} is ready again"] if is_ready and not was_ready else []

    def _bury(self, now: float, error: StackError) -> str:
        self.part.stop()
        self._deaths = [*(death for death in self._deaths if now - death < WITHIN), now]
        count = len(self._deaths)
        if count > MOST_RESTARTS:
            raise StackError(
                f"{self.part.name} died {count} times within {WITHIN:g} s; the last time: {error}"
            ) from error
        pause = _FIRST_PAUSE * 2 ** (count - 1)
        self._again_at = now + pause
        return f"{error}\n{self.part.name} will be started again in {pause:g} s"
