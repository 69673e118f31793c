"""Who reads which image now: leases in Redis, so that an image goes to as many readers as it should.

Redis only helps; the decisions in the object store are authoritative, and are checked before an image is handed
out. Times are Redis's own. A lease is for an image, whichever queue it is in.
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
"""How long a lease lasts without a sign of life; browsers let background pages send one once a minute."""

_KEPT_SECONDS = 30 * 24 * 3600.0
_SOME = 200

Done = Literal["read", "opened"]
"""Whether a reader has decided, or has seen what others decided and can no longer be blind to it."""


class Leases:
    """Leases of one system. Every method raises ``LedgerUnavailable`` where Redis does not answer.

    Args:
        client: Of Redis.
        seconds: How long a lease lasts.
    """

    def __init__(self, client: redis.Redis, seconds: float = LEASE_SECONDS) -> None:
        self._redis, self.seconds = client, seconds
        self._lease = client.register_script(_script())

    def take(self, reader: str, cases: Sequence[tuple[Case, int]]) -> int | None:
        """Lease the first image that the reader may have; one that they already hold comes first, and is renewed.

        Args:
            reader: Whose lease it is.
            cases: Images, and how many readers are to read each.

        Returns:
            Its place among the cases; none if there is no such image.
        """
        if len(cases) > _SOME and (place := self._take(reader, cases, "held")) is not None:
            return place
        return self._take(reader, cases, "any")

    def _take(self, reader: str, cases: Sequence[tuple[Case, int]], which: Literal["held", "any"]) -> int | None:
        """Some at a time, as others wait while Redis looks; among images already held only, or among all."""
        given: list[str | int] = [reader, milliseconds(self.seconds), milliseconds(_KEPT_SECONDS), which]
        for start in range(0, len(cases), _SOME):
            some = cases[start : start + _SOME]
            with sorted_errors():
                keys = [_key(case) for case, _ in some]
                place = self._lease(keys=keys, args=[*given, *(many for _, many in some)])
            if place:
                return start + int(cast(int, place)) - 1
        return None

    def give_back(self, reader: str, case: Case) -> None:
        """End a lease; what is done stays done."""
        with sorted_errors():
            self._redis.hdel(_blind(reader), _member(case))
            lease = cast("str | None", self._redis.hget(_key(case), reader))
            if lease is not None and lease.isdigit():
                self._redis.hdel(_key(case), reader)

    def done(self, case: Case, reader: str, how: Done = "read") -> None:
        """Note that a reader is not to be handed this image again."""
        with sorted_errors(), self._redis.pipeline() as pipe:
            pipe.hset(_key(case), reader, how)
            pipe.pexpire(_key(case), milliseconds(_KEPT_SECONDS))
            pipe.srem(_returned(reader), _member(case))
            pipe.hdel(_blind(reader), _member(case))
            pipe.execute()

    def reopen(self, case: Case, reader: str) -> None:
        """Hand a reader this image before all others, because it was returned to them."""
        with sorted_errors(), self._redis.pipeline() as pipe:
            pipe.hdel(_key(case), reader)
            pipe.sadd(_returned(reader), _member(case))
            pipe.execute()

    def returned(self, reader: str, cases: Sequence[Case]) -> list[Case]:
        """Those among these images that were returned to a reader."""
        with sorted_errors():
            found = cast("set[str]", self._redis.smembers(_returned(reader)))
        return [case for case in cases if _member(case) in found] if found else []

    def has_opened(self, case: Case, reader: str) -> bool:
        """Whether a reader has seen what others decided about an image without having decided."""
        with sorted_errors():
            return self._redis.hget(_key(case), reader) == "opened"

    def blind(self, queue: str, cases: Sequence[Case]) -> None:
        """Record from now on who looks at models' results for a blind queue's images; harmless to repeat."""
        with sorted_errors():
            for start in range(0, len(cases), _SOME):
                self._redis.sadd(_BLIND_CASES, *map(_member, cases[start : start + _SOME]))
            self._redis.set(_blind_queue(queue), 1, px=milliseconds(_KEPT_SECONDS))

    def is_blind(self, queue: str) -> bool:
        """Whether :meth:`blind` was called for this queue, as Redis has it."""
        with sorted_errors():
            return bool(self._redis.exists(_blind_queue(queue)))

    def hide(self, reader: str, case: Case) -> None:
        """Note that a lease is for a blind queue; the note is renewed as leases are."""
        with sorted_errors(), self._redis.pipeline() as pipe:
            pipe.hset(_blind(reader), _member(case), self.now() + milliseconds(self.seconds))
            pipe.pexpire(_blind(reader), milliseconds(_KEPT_SECONDS))
            pipe.execute()

    def hidden(self, reader: str) -> set[Case]:
        """The images that a reader has leased from blind queues."""
        with sorted_errors():
            found = cast("dict[str, str]", self._redis.hgetall(_blind(reader)))
        now = self.now() if found else 0
        return {_case(member) for member, ends in found.items() if int(ends) > now}

    def look(self, reader: str, cases: Sequence[Case]) -> None:
        """Note that a reader was shown models' results, for those of these images that are in blind queues.

        Nothing is noted for images that they have decided: after that they may look.
        """
        if not cases:
            return
        members = [_member(case) for case in cases]
        with sorted_errors():
            among = cast("list[int]", self._redis.smismember(_BLIND_CASES, members))
            blind = [case for case, is_one in zip(cases, among, strict=True) if is_one]
            new = [case for case in blind if self._redis.hget(_key(case), reader) != "read"]
            if new:
                self._redis.sadd(_looked(reader), *map(_member, new))
                self._redis.pexpire(_looked(reader), milliseconds(_KEPT_SECONDS))

    def look_at(self, reader: str, batches: Sequence[str]) -> None:
        """The same for all images in batches."""
        if batches:
            with sorted_errors():
                self._redis.sadd(_looked(reader), *batches)
                self._redis.pexpire(_looked(reader), milliseconds(_KEPT_SECONDS))

    def has_looked(self, reader: str, case: Case) -> bool:
        """Whether a reader was shown models' results for a blind queue's image before deciding."""
        with sorted_errors():
            if not self._redis.sismember(_BLIND_CASES, _member(case)):
                return False
            return any(self._redis.smismember(_looked(reader), [_member(case), case.batch]))

    def standing(self, cases: Sequence[Case]) -> list[dict[str, str]]:
        """For each image, by reader: when their lease ends (ms by Redis's clock), or how they finished."""
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


def _case(member: str) -> Case:
    batch, _, index = member.rpartition("/")
    return Case(batch=batch, index=int(index))


_BLIND_CASES = "review:blind-cases"


def _blind_queue(queue: str) -> str:
    return f"review:blind-queue:{queue}"


def _blind(reader: str) -> str:
    return f"review:blind:{reader}"


def _looked(reader: str) -> str:
    return f"review:looked:{reader}"


def _returned(reader: str) -> str:
    return f"review:returned:{reader}"
