"""Open batches: how they stand, and how they are steered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal, cast

from dermbatch.ledger.connection import (
    COUNTS,
    OPEN,
    Connection,
    batch_key,
    bitmap_keys,
    reasons_key,
    sorted_errors,
)
from dermbatch.records import Batch, BatchControl, Lane

_BITS_AT_A_TIME = 5000


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
        waiting: Those of them that wait out a pause after a transient failure.
        opened: When it was planned.
        rate: Outcomes a second, lately; kept by the leader.
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
        """Whether every image has its outcome, and no more come."""
        return self.left <= 0 and not self.growing

    @property
    def left(self) -> int:
        """Images without an outcome."""
        return self.images - self.done - self.failed


class Batches(Connection):
    """Every method raises :class:`LedgerUnavailable` where Redis does not answer."""

    def open_batch(self, batch: Batch, control: BatchControl | None = None) -> bool:
        """Let the dispatcher feed this batch. Opening it again changes nothing; ``False`` then.

        Args:
            batch: What was asked.
            control: How it is to be run; as it was asked where none is given.
        """
        said = control or BatchControl.of(batch.order)
        opened = round(batch.created.timestamp() * 1000)
        keys = [OPEN, batch_key(batch.name), *bitmap_keys(batch.name)]
        args: list[str | int] = [batch.name, opened, batch.images, said.lane, said.weight, said.state, said.why]
        args += [int(said.tolerant), int(batch.growing), batch.rule or ""]
        return self._run("open", keys, args) == 1

    def grow(self, batch: Batch) -> bool:
        """Tell how many images a batch has that takes images in, and whether it takes more.

        It never has fewer than before, and never begins to take images in again. ``False`` where it is not known.
        """
        return self._run("grow", [batch_key(batch.name)], [batch.images, int(batch.growing)]) == 1

    def restore(
        self, batch: Batch, control: BatchControl, done: Iterable[int], failed: Iterable[tuple[int, str]]
    ) -> None:
        """Open a batch with the outcomes that the object store has of it.

        Args:
            batch: What was asked.
            control: How it is to be run.
            done: Indices with a result.
            failed: Index and reason of those with a failure; a result counts more.
        """
        done_key, failed_key = bitmap_keys(batch.name)
        with sorted_errors():
            for some in _chunks(done):
                with self._redis.pipeline(transaction=False) as pipe:
                    for index in some:
                        pipe.setbit(done_key, index, 1)
                        pipe.setbit(failed_key, index, 0)
                    pipe.execute()
        for index, reason in failed:
            self._run("refuse", [done_key, failed_key, reasons_key(batch.name)], [index, reason])
        self.open_batch(batch, control)

    def forget(self, batch: str) -> None:
        """Drop all that is kept of a batch that is closed."""
        with sorted_errors(), self._redis.pipeline() as pipe:
            pipe.zrem(OPEN, batch)
            pipe.unlink(batch_key(batch), *bitmap_keys(batch), reasons_key(batch))
            pipe.execute()

    def steer(self, batch: str, control: BatchControl) -> bool:
        """Run a batch otherwise from now on; ``False`` where it is not open."""
        said = {**control.model_dump(exclude={"format"}), "tolerant": int(control.tolerant)}
        return self._amend(batch, **said)

    def rewind(self, batch: str, failures: Mapping[int, str]) -> None:
        """Forget failures (index to reason) of an open batch and feed these images again."""
        _, failed_key = bitmap_keys(batch)
        with sorted_errors():
            if not failures or not self._redis.exists(batch_key(batch)):
                return
            for some in _chunks(failures.items()):
                with self._redis.pipeline() as pipe:
                    for index, _ in some:
                        pipe.setbit(failed_key, index, 0)
                    counted = pipe.execute()
                    for reason, times in Counter(
                        reason for (_, reason), was in zip(some, counted, strict=True) if was
                    ).items():
                        pipe.hincrby(reasons_key(batch), reason, -times)
                    pipe.execute()
            self.feed_from(batch, min(failures))

    def miss(self, batch: str, indices: Iterable[int]) -> None:
        """Forget whatever outcome was noted of these images, since there is no record of it; feed them again."""
        missing = sorted(indices)
        with sorted_errors():
            for some in _chunks(missing):
                with self._redis.pipeline() as pipe:
                    for index in some:
                        for key in bitmap_keys(batch):
                            pipe.setbit(key, index, 0)
                    pipe.execute()
            self.feed_from(batch, missing[0])

    def unfinished(self, batch: str, start: int, count: int) -> list[int]:
        """Of ``count`` indices from ``start`` on, those without an outcome."""
        return cast(list[int], self._run("unfinished", bitmap_keys(batch), [start, count]))

    def advance(self, batch: str, index: int) -> None:
        """Remember that every image before ``index`` was fed."""
        self._amend(batch, next=index)

    def feed_from(self, batch: str, index: int) -> None:
        """Go through the manifest again from here; what has its outcome is passed over."""
        self._run("feed_from", [batch_key(batch)], [index])

    def note_rate(self, batch: str, rate: float) -> None:
        """Keep the outcomes a second of a batch, for people to see."""
        self._amend(batch, rate=f"{rate:.3f}")

    def _amend(self, batch: str, **fields: str | int) -> bool:
        # One script: a batch that is forgotten in between must not come back as a shell of itself.
        pairs = [part for field, value in fields.items() for part in (field, value)]
        return self._run("amend", [batch_key(batch)], pairs) == 1

    def batches(self) -> list[BatchState]:
        """The batches that are not closed, paused and cancelled ones too, oldest first."""
        with sorted_errors():
            names = cast(list[str], self._redis.zrange(OPEN, 0, -1))
        return [state for state in self._states_of(names) if state is not None]

    def batch(self, name: str) -> BatchState | None:
        """How a batch stands; none where the ledger does not know it: it is closed, or never was."""
        return self._states_of([name])[0]

    def _states_of(self, names: list[str]) -> list[BatchState | None]:
        with sorted_errors(), self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(batch_key(name))
                for key in bitmap_keys(name):
                    pipe.bitcount(key)
                pipe.hmget(COUNTS, name, f"{name}|waiting")
                pipe.hgetall(reasons_key(name))
            rows = pipe.execute()
        return [_state(name, *rows[5 * n : 5 * n + 5]) for n, name in enumerate(names)]


def _state(
    name: str, said: dict[str, Any], done: int, failed: int, in_flight: list[str | None], reasons: dict[str, str]
) -> BatchState | None:
    if "opened" not in said:
        return None
    return BatchState(
        name=name,
        lane=said["lane"],
        weight=int(said["weight"]),
        state=said["state"],
        why=said["why"],
        images=int(said["images"]),
        next_index=int(said["next"]),
        done=done,
        failed=failed,
        in_flight=int(in_flight[0] or 0),
        waiting=int(in_flight[1] or 0),
        opened=datetime.fromtimestamp(int(said["opened"]) / 1000, UTC),
        rate=float(said["rate"]),
        tolerant=said.get("tolerant") == "1",
        growing=said.get("growing") == "1",
        rule=said.get("rule", ""),
        reasons={reason: int(count) for reason, count in reasons.items() if int(count) > 0},
    )


def _chunks(items: Iterable[Any]) -> Iterable[list[Any]]:
    rest = iter(items)
    while some := list(islice(rest, _BITS_AT_A_TIME)):
        yield some
