"""Open batches: how they stand, and how they are steered."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice, product
from typing import Any, Literal, NamedTuple, cast, get_args

import redis
from redis.client import PubSub

from dermbatch.ledger.connection import (
    BATCH,
    CLOSED,
    COUNTS,
    OPEN,
    Connection,
    batch_of,
    bitmaps_of,
    reasons_of,
    rows_of,
    sorted_errors,
)
from dermbatch.records.asked import Batch, BatchControl, Lane

_BITS_AT_A_TIME = 5000


Kind = Literal["refused", "copy", "known", "plain", "enlarged", "failed"]
"""Kind of an image, by the work it takes. refused: by planning; copy: of another image in its batch; known:
nothing was computed; enlarged: a small lesion was super-resolved, which takes up to a hundred times as long as a
plain one."""

KINDS: tuple[Kind, ...] = get_args(Kind)


class Spent(NamedTuple):
    """What images of one kind have taken.

    Attributes:
        images: How many.
        seconds: Total that workers spent on them.
    """

    images: int
    seconds: float


@dataclass(frozen=True)
class BatchState:
    """How an open batch stands.

    Attributes:
        name: Its name.
        lane: Where its images queue.
        weight: Its share among the batches of its lane.
        state: ``paused`` and ``cancelled`` batches are not fed.
        why: Why it is paused or cancelled, for people.
        images: How many it has.
        next_index: The first that was never fed.
        done, failed: Outcomes.
        in_flight: Queued, running or waiting.
        waiting: Those in flight that wait out a pause after a transient failure.
        opened: When it was planned.
        rate: Recent outcomes per second; kept by the leader.
        seconds_left: How long it still takes; none if nobody can tell. Also kept by the leader.
        spent: Images with an outcome, and seconds that workers spent on them, by kind, as far as counted.
        reasons: Failures by reason code.
        tolerant: It was resumed after too many failures, so it is not paused for them again.
        growing: It takes images in; ``images`` is how many so far.
        rule: Of watching, by which it does or did.
    """

    name: str
    lane: Lane
    weight: int
    state: Literal["open", "paused", "cancelled"]
    why: str
    images: int
    next_index: int
    done: int
    failed: int
    in_flight: int
    waiting: int
    opened: datetime
    rate: float = 0.0
    seconds_left: float | None = None
    spent: Mapping[Kind, Spent] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    tolerant: bool = False
    growing: bool = False
    rule: str = ""

    @property
    def control(self) -> BatchControl:
        """How it is run, as the object store keeps it."""
        return BatchControl(
            lane=self.lane, weight=self.weight, state=self.state, why=self.why, tolerant=self.tolerant
        )

    @property
    def finished(self) -> bool:
        """Whether every image has its outcome and no more are coming."""
        return self.left <= 0 and not self.growing

    @property
    def left(self) -> int:
        """Images without an outcome."""
        return self.images - self.done - self.failed


class Batches:
    """Every method raises :class:`LedgerUnavailable` if Redis does not answer."""

    def __init__(self, connection: Connection) -> None:
        self._redis, self._run = connection.redis, connection.run
        self._closed: PubSub | None = None

    def open(self, batch: Batch, control: BatchControl | None = None) -> bool:
        """Let the dispatcher feed this batch. Opening it again changes nothing; ``False`` then.

        Args:
            batch: What was asked.
            control: How it is to be run; as it was asked where none is given.
        """
        args: list[str | int] = [batch.name, round(batch.created.timestamp() * 1000), batch.images]
        args += _fields(control or BatchControl.of(batch.order))
        args += ["growing", int(batch.growing), "rule", batch.rule or ""]
        names = [OPEN, batch_of(batch.name), *bitmaps_of(batch.name)]
        return self._run("open", names, args) == 1

    def grow(self, batch: Batch) -> bool:
        """Record how many images a growing batch has, and whether it still takes more.

        The number never falls, and a batch that has stopped growing never starts again. ``False`` if it is not
        known.
        """
        return self._run("grow", [batch_of(batch.name)], [batch.images, int(batch.growing)]) == 1

    def restore(
        self, batch: Batch, control: BatchControl, done: Iterable[int], failed: Iterable[tuple[int, str]]
    ) -> None:
        """Open a batch with the outcomes that the object store has for it.

        Args:
            batch: What was asked.
            control: How it is to be run.
            done: Indices with a result.
            failed: Index and reason of those with a failure; a result takes precedence.
        """
        self._set_bits(done, dict(zip(bitmaps_of(batch.name), (1, 0), strict=True)))
        for index, reason in failed:
            self.refuse(batch.name, index, reason)
        self.open(batch, control)

    def refuse(self, batch: str, index: int, reason: str) -> bool:
        """Count an image as failed that was never in flight: its input was refused during planning."""
        return self._run("refuse", [*bitmaps_of(batch), reasons_of(batch), batch_of(batch)], [index, reason]) == 1

    def forget(self, batch: str) -> None:
        """Drop everything kept about a closed batch."""
        with sorted_errors(), self._redis.pipeline() as pipe:
            pipe.zrem(OPEN, batch)
            pipe.unlink(batch_of(batch), *bitmaps_of(batch), reasons_of(batch), rows_of(batch))
            pipe.publish(CLOSED, batch)
            pipe.execute()

    def sleep(self, seconds: float) -> None:
        """Wait until some batch is closed, at most this long; Redis may fail meanwhile."""
        try:
            if self._closed is None:
                closed = self._redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
                closed.subscribe(CLOSED)
                self._closed = closed
            self._closed.get_message(timeout=seconds)
        except redis.RedisError:
            time.sleep(seconds)

    def rows_waiting(self, batches: Sequence[str]) -> dict[str, int]:
        """How many rows of each batch's table are waiting to be gathered."""
        with sorted_errors(), self._redis.pipeline(transaction=False) as pipe:
            for batch in batches:
                pipe.llen(rows_of(batch))
            return dict(zip(batches, pipe.execute(), strict=True))

    def rows(self, batch: str, count: int) -> list[str]:
        """The first waiting rows, in the order in which they came; they are not removed."""
        with sorted_errors():
            return cast(list[str], self._redis.lrange(rows_of(batch), 0, count - 1))

    def drop_rows(self, batch: str, count: int) -> None:
        """Remove the first waiting rows, once they are written."""
        with sorted_errors():
            self._redis.ltrim(rows_of(batch), count, -1)

    def steer(self, batch: str, control: BatchControl) -> bool:
        """Change how a batch is run from now on; ``False`` if it is not open."""
        return self._amend(batch, *_fields(control))

    def rewind(self, batch: str, failures: Mapping[int, str]) -> None:
        """Forget failures (index to reason) of an open batch and feed these images again."""
        _, failed_key = bitmaps_of(batch)
        with sorted_errors():
            if not failures or not self._redis.exists(batch_of(batch)):
                return
            for some in _chunks(failures.items()):
                with self._redis.pipeline() as pipe:
                    for index, _ in some:
                        pipe.setbit(failed_key, index, 0)
                    counted = pipe.execute()
                    for reason, times in Counter(
                        reason for (_, reason), was in zip(some, counted, strict=True) if was
                    ).items():
                        pipe.hincrby(reasons_of(batch), reason, -times)
                    pipe.execute()
            self.feed_from(batch, min(failures))

    def miss(self, batch: str, indices: Iterable[int]) -> None:
        """Forget any outcome noted for these images, since there is no record of it; feed them again."""
        missing = sorted(indices)
        self._set_bits(missing, dict.fromkeys(bitmaps_of(batch), 0))
        self.feed_from(batch, missing[0])

    def _set_bits(self, indices: Iterable[int], bits: Mapping[str, int]) -> None:
        for some in _chunks(indices):
            with sorted_errors(), self._redis.pipeline(transaction=False) as pipe:
                for index, (bitmap, bit) in product(some, bits.items()):
                    pipe.setbit(bitmap, index, bit)
                pipe.execute()

    def unfinished(self, batch: str, start: int, count: int) -> list[int]:
        """Of ``count`` indices from ``start`` on, those without an outcome."""
        return cast(list[int], self._run("unfinished", bitmaps_of(batch), [start, count]))

    def is_finished(self, batch: str, index: int) -> bool:
        """Whether an image has its outcome."""
        return not self.unfinished(batch, index, 1)

    def advance(self, batch: str, index: int) -> None:
        """Remember that every image before ``index`` was fed."""
        self._amend(batch, "next", index)

    def feed_from(self, batch: str, index: int) -> None:
        """Go through the manifest again from here, skipping images with an outcome."""
        self._run("feed_from", [batch_of(batch)], [index])

    def note_rate(self, batch: str, rate: float, seconds_left: float | None) -> None:
        """Keep a batch's outcomes per second and its remaining time, for people to see."""
        left = "" if seconds_left is None else f"{seconds_left:.1f}"
        self._amend(batch, "rate", f"{rate:.3f}", "left", left)

    def _amend(self, batch: str, *fields: str | int) -> bool:
        # One script: a batch that is forgotten in between must not come back as an empty shell.
        return self._run("amend", [batch_of(batch)], fields) == 1

    def all(self) -> list[BatchState]:
        """All batches that are not closed, including paused and cancelled ones, oldest first."""
        return batch_states(self._run("batches", [OPEN, COUNTS], [BATCH]))

    def get(self, name: str) -> BatchState | None:
        """How a batch stands; none if the ledger does not know it, because it is closed or never existed."""
        return next(iter(batch_states(self._run("batches", [OPEN, COUNTS], [BATCH, name]))), None)


def batch_states(rows: object) -> list[BatchState]:
    """The known ones among the batches that scripts report; see ``standing`` in ``prelude.lua``."""
    return [
        _state(name, fields, *row)
        for name, flat, *row in cast(list[Any], rows)
        if "opened" in (fields := _pairs(flat))
    ]


def _state(
    name: str, fields: dict[str, str], done: int, failed: int, in_flight: list[str | None], reasons: list[str]
) -> BatchState:
    return BatchState(
        name=name,
        lane=cast(Lane, fields["lane"]),
        weight=int(fields["weight"]),
        state=cast(Literal["open", "paused", "cancelled"], fields["state"]),
        why=fields["why"],
        images=int(fields["images"]),
        next_index=int(fields["next"]),
        done=done,
        failed=failed,
        in_flight=int(in_flight[0] or 0),
        waiting=int(in_flight[1] or 0),
        opened=datetime.fromtimestamp(int(fields["opened"]) / 1000, UTC),
        rate=float(fields["rate"]),
        seconds_left=float(fields["left"]) if fields.get("left") else None,
        spent=_spent(fields),
        tolerant=fields.get("tolerant") == "1",
        growing=fields.get("growing") == "1",
        rule=fields.get("rule", ""),
        reasons={reason: int(count) for reason, count in _pairs(reasons).items() if int(count) > 0},
    )


def _spent(fields: Mapping[str, str]) -> dict[Kind, Spent]:
    counted = {kind: (int(fields.get(f"images:{kind}", 0)), int(fields.get(f"ms:{kind}", 0))) for kind in KINDS}
    return {kind: Spent(images, ms / 1000) for kind, (images, ms) in counted.items() if images}


def _fields(control: BatchControl) -> list[str | int]:
    fields = {**control.model_dump(exclude={"format"}), "tolerant": int(control.tolerant)}
    return [part for pair in fields.items() for part in pair]


def _pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _chunks(items: Iterable[Any]) -> Iterable[list[Any]]:
    rest = iter(items)
    while some := list(islice(rest, _BITS_AT_A_TIME)):
        yield some
