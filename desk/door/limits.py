"""How much one person, key or address may ask in a minute, as Redis counts it for all replicas."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import redis

from dermbatch.ledger.connection import sorted_errors
from dermbatch.settings.desk import DeskSettings
from desk.problems import Problem

_MINUTE = 60
_SAFE = {"GET", "HEAD", "OPTIONS"}


@dataclass(frozen=True)
class RateLimits:
    """Counts what is asked.

    A minute begins with the first request that is counted in it. Every method raises ``LedgerUnavailable`` where
    Redis does not answer.

    Args:
        redis: The client.
        settings: How much is too much.
    """

    redis: redis.Redis
    settings: DeskSettings

    def asked(self, name: str, method: str) -> None:
        """Count a request of somebody.

        Raises:
            Problem: 429 where it is one too many.
        """
        self._count("asked", name, self.settings.requests_per_minute)
        if method not in _SAFE:
            self._count("changed", name, self.settings.changes_per_minute)

    def refused(self, address: str) -> None:
        """Count that an address has presented invalid credentials."""
        if self.settings.refusals_per_minute:
            self._add("refused", address)

    def check(self, address: str) -> None:
        """Stop checking the credentials of an address, if too many of them were invalid.

        Raises:
            Problem: 429 then.
        """
        most = self.settings.refusals_per_minute
        if not most:
            return
        with sorted_errors():
            asked = self.redis.pipeline(transaction=False)
            asked.get(_key("refused", address))
            asked.ttl(_key("refused", address))
            count, left = asked.execute()
        if int(count or 0) >= most:
            raise _too_much(left)

    def _count(self, kind: str, whose: str, most: int) -> None:
        if not most:
            return
        count, left = self._add(kind, whose)
        if count > most:
            raise _too_much(left)

    def _add(self, kind: str, whose: str) -> tuple[int, int]:
        key = _key(kind, whose)
        with sorted_errors():
            asked = self.redis.pipeline(transaction=False)
            asked.set(key, 0, ex=_MINUTE, nx=True)
            asked.incr(key)
            asked.ttl(key)
            _, count, left = asked.execute()
        if left < 0:  # the minute ended between the two
            with sorted_errors():
                self.redis.expire(key, _MINUTE)
        return int(count), int(left)


def _too_much(left: int) -> Problem:
    wait = max(1, left)
    detail = f"too many requests within a minute: continue in {wait} s"
    return Problem(429, "too_many_requests", detail, headers={"Retry-After": str(wait)})


def _key(kind: str, whose: str) -> str:
    return f"desk:rate:{kind}:{hashlib.sha256(whose.encode()).hexdigest()[:24]}"
