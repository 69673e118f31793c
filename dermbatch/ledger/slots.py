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
        """Worker slots heard of lately."""
        return cast(int, self._run("slots", [SLOTS], [SILENCE_MS]))

    def retire(self, slot: str) -> None:
        """Say that this worker slot goes."""
        with sorted_errors():
            self._redis.zrem(SLOTS, slot)

    def lead(self, name: str, seconds: float, role: Role = "orchestrator") -> bool:
        """Become or stay the leader for so long; ``False`` where another one is."""
        return self._run("lead", [_LEADERS[role]], [name, milliseconds(seconds)]) == 1

    def resign(self, name: str, role: Role = "orchestrator") -> None:
        """Leave the lead to others at once."""
        with sorted_errors():
            if self._redis.get(_LEADERS[role]) == name:
                self._redis.delete(_LEADERS[role])

    def ask_to_look(self, rules: Iterable[str]) -> None:
        """Have the watcher that leads list what is below the prefixes of these rules, soon."""
        if names := list(rules):
            with sorted_errors():
                self._redis.sadd(WATCH_LOOK, *names)

    def asked_to_look(self) -> set[str]:
        """The rules that somebody has asked to be looked at since the last call."""
        with sorted_errors():
            return set(cast(list[str], self._redis.spop(WATCH_LOOK, _MOST_RULES)))

    def wake(self) -> None:
        """Have the leader look now, not at its next turn, which a full Redis must do with."""
        with sorted_errors(), suppress(redis.OutOfMemoryError), self._redis.pipeline() as pipe:
            pipe.lpush(WAKE, 1)
            pipe.ltrim(WAKE, 0, 0)
            pipe.execute()

    def sleep(self, seconds: float) -> None:
        """Wait until somebody wakes the leader, or for so long (at most 2 s)."""
        with sorted_errors(), suppress(redis.TimeoutError):
            self._blocking.blpop([WAKE], timeout=seconds)

    def remembers(self) -> bool:
        """Whether Redis still has what the leader wrote at its last look; not after it has lost its data."""
        with sorted_errors():
            return bool(self._redis.exists(CLOCK))
