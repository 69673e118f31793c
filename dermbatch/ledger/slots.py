"""Who is there: worker slots, and the orchestrator that leads."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Literal, cast

import redis

from dermbatch.ledger.connection import (
    CLOCK,
    LEADER,
    SLOTS,
    WAKE,
    WATCH_LOOK,
    Connection,
    milliseconds,
    sorted_errors,
)

SILENCE_MS = 30_000
_MOST_RULES = 10_000

Role = Literal["orchestrator", "watcher"]

_LEADERS: dict[Role, str] = {"orchestrator": LEADER, "watcher": f"{LEADER}:watcher"}


class Slots:
    """Every method raises :class:`LedgerUnavailable` where Redis does not answer."""

    def __init__(self, connection: Connection) -> None:
        self._redis, self._blocking, self._run = connection.redis, connection.blocking, connection.run

    def report(self, slot: str) -> None:
        """Say that this worker slot is alive."""
        self._run("slots", [SLOTS], [SILENCE_MS, slot])

    def live(self) -> int:
        """Worker slots heard from recently."""
        return cast(int, self._run("slots", [SLOTS], [SILENCE_MS]))

    def retire(self, slot: str) -> None:
        """Say that this worker slot is leaving."""
        with sorted_errors():
            self._redis.zrem(SLOTS, slot)

    def lead(self, name: str, seconds: float, role: Role = "orchestrator") -> bool:
        """Become or stay the leader for this long; ``False`` if another one leads."""
        return self._run("lead", [_LEADERS[role]], [name, milliseconds(seconds)]) == 1

    def resign(self, name: str, role: Role = "orchestrator") -> None:
        """Give up the lead at once."""
        with sorted_errors():
            if self._redis.get(_LEADERS[role]) == name:
                self._redis.delete(_LEADERS[role])

    def ask_to_look(self, rules: Iterable[str]) -> None:
        """Have the leading watcher list what is below these rules' prefixes soon."""
        if names := list(rules):
            with sorted_errors():
                self._redis.sadd(WATCH_LOOK, *names)

    def asked_to_look(self) -> set[str]:
        """The rules for which somebody has asked for a look since the last call."""
        with sorted_errors():
            return set(cast(list[str], self._redis.spop(WATCH_LOOK, _MOST_RULES)))

    def wake(self) -> None:
        """Have the leader look now instead of at its next turn; with a full Redis, the turn has to do."""
        with sorted_errors(), suppress(redis.OutOfMemoryError), self._redis.pipeline() as pipe:
            pipe.lpush(WAKE, 1)
            pipe.ltrim(WAKE, 0, 0)
            pipe.execute()

    def sleep(self, seconds: float) -> None:
        """Wait until somebody wakes the leader, at most this long (and at most 2 s)."""
        with sorted_errors(), suppress(redis.TimeoutError):
            self._blocking.blpop([WAKE], timeout=seconds)

    def remembers(self) -> bool:
        """Whether Redis still has what the leader wrote at its last look, so has not lost its data since."""
        with sorted_errors():
            return bool(self._redis.exists(CLOCK))
