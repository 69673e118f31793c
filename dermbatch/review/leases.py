"""Who reads which image now: leases in Redis, so that an image is handed to as many readers as it is for.

What Redis has is a help, and the decisions in the object store are what holds: whoever hands out looks there, too.
Times are Redis's own. An image is leased whatever queue it is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Literal, cast

import redis

from dermbatch.ledger.connection import milliseconds, sorted_errors
from dermbatch.records.review import Case

LEASE_SECONDS = 180.0
"""That an image is a reader's without a word; browsers let pages in the background speak once a minute."""

_KEPT_SECONDS = 30 * 24 * 3600.0
_SOME = 200

Done = Literal["read", "opened"]
"""Whether a reader has decided, or has seen what others decided and cannot be blind to it any more."""


class Leases:
    """Leases of one system. Every method raises ``LedgerUnavailable`` where Redis does not answer.

    Args:
        client: Of Redis.
        seconds: That a lease lasts.
    """

    def __init__(self, client: redis.Redis, seconds: float = LEASE_SECONDS) -> None:
        self._redis, self.seconds = client, seconds
        self._lease = client.register_script(_script())

    def take(self, reader: str, cases: Sequence[tuple[Case, int]]) -> int | None:
        """Lease the first image that the reader is free for; one that they hold comes first, and is held on.

        Args:
            reader: Whose lease it is.
            cases: Images, and by how many each is to be read.

        Returns:
            Its place among the cases; none where there is none.
        """
        times = [milliseconds(self.seconds), milliseconds(_KEPT_SECONDS)]
        for start in range(0, len(cases), _SOME):
            some = cases[start : start + _SOME]
            with sorted_errors():
                place = self._lease(
                    keys=[_key(case) for case, _ in some], args=[reader, *times, *(many for _, many in some)]
                )
            if place:
                return start + int(cast(int, place)) - 1
        return None

    def give_back(self, reader: str, case: Case) -> None:
        """End a lease; what is done stays done."""
        with sorted_errors():
            said = cast("str | None", self._redis.hget(_key(case), reader))
            if said is not None and said.isdigit():
                self._redis.hdel(_key(case), reader)

    def done(self, case: Case, reader: str, how: Done = "read") -> None:
        """Note that a reader is not to be handed this image any more."""
        with sorted_errors(), self._redis.pipeline() as pipe:
            pipe.hset(_key(case), reader, how)
            pipe.pexpire(_key(case), milliseconds(_KEPT_SECONDS))
            pipe.srem(_returned(reader), _member(case))
            pipe.execute()

    def reopen(self, case: Case, reader: str) -> None:
        """Have a reader be handed this image before all others: it was returned to them."""
        with sorted_errors(), self._redis.pipeline() as pipe:
            pipe.hdel(_key(case), reader)
            pipe.sadd(_returned(reader), _member(case))
            pipe.execute()

    def returned(self, reader: str, cases: Sequence[Case]) -> list[Case]:
        """Those of these images that were returned to a reader."""
        with sorted_errors():
            found = cast("set[str]", self._redis.smembers(_returned(reader)))
        return [case for case in cases if _member(case) in found] if found else []

    def has_opened(self, case: Case, reader: str) -> bool:
        """Whether a reader has seen what others decided of an image without having decided."""
        with sorted_errors():
            return self._redis.hget(_key(case), reader) == "opened"

    def standing(self, cases: Sequence[Case]) -> list[dict[str, str]]:
        """Of each image by reader: when their lease ends (ms of Redis's clock), or how they are done."""
        found: list[dict[str, str]] = []
        for start in range(0, len(cases), _SOME):
            with sorted_errors(), self._redis.pipeline(transaction=False) as pipe:
                for case in cases[start : start + _SOME]:
                    pipe.hgetall(_key(case))
                found += cast("list[dict[str, str]]", pipe.execute())
        return found

    def now(self) -> int:
        """Redis's clock in milliseconds."""
        with sorted_errors():
            seconds, micros = self._redis.time()
        return seconds * 1000 + micros // 1000


@cache
def _script() -> str:
    return files(__package__).joinpath("lease.lua").read_text(encoding="utf-8")


def _member(case: Case) -> str:
    return f"{case.batch}/{case.index}"


def _key(case: Case) -> str:
    return f"review:case:{_member(case)}"


def _returned(reader: str) -> str:
    return f"review:returned:{reader}"
