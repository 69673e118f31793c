"""The ledger in Redis: who works on which image, until when, and what is finished.

One sorted set holds the images in flight (score: when to look at it again, milliseconds by Redis's own clock, so
that no worker's clock matters), and two bitmaps a batch hold what is done and what failed. Counters are derived.
Each move is one Lua script, so each is atomic. Memory is O(window) + 2 bits an image.

The ledger is live state, not the record: result records in the object store are, and the ledger can be built
again from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal, cast

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from dermbatch.errors import LedgerUnavailable
from dermbatch.records import Batch, ImageJob
from dermbatch.settings import LedgerSettings, RedisSettings

_PREFIX = "dermbatch:"
_INFLIGHT, _STATES, _JOBS = _PREFIX + "inflight", _PREFIX + "states", _PREFIX + "jobs"
_OPEN, _SLOTS = _PREFIX + "open", _PREFIX + "slots"
_SLOT_SILENCE_MS = 30_000


@dataclass(frozen=True)
class Claim:
    """A worker's hold on an image."""

    job: ImageJob
    owner: str
    attempt: int
    transients: int = 0


@dataclass(frozen=True)
class Due:
    """An image whose time has come, already moved; see ``requeue.lua``."""

    job: ImageJob
    why: Literal["expired", "resend", "poison"]
    attempts: int
    lease_expired: bool


@dataclass(frozen=True)
class Counts:
    """Where the images of a batch stand."""

    images: int
    done: int
    failed: int

    @property
    def finished(self) -> bool:
        """Whether every image has its outcome."""
        return self.done + self.failed >= self.images


class Ledger:
    """Every method is atomic and raises :class:`LedgerUnavailable` where Redis does not answer."""

    def __init__(self, redis_settings: RedisSettings, settings: LedgerSettings) -> None:
        self._settings = settings
        self._redis = redis.Redis.from_url(
            redis_settings.url,
            decode_responses=True,
            socket_keepalive=True,
            socket_connect_timeout=5,
            socket_timeout=10,
            health_check_interval=10,
            retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1), 3),
        )
        self._scripts = {
            name: self._redis.register_script(
                files(__name__).joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")
            )
            for name in ("enqueue", "claim", "heartbeat", "finish", "postpone", "requeue")
        }

    # Batches

    def open_batch(self, batch: Batch) -> None:
        """Let the dispatcher feed this batch. Opening it again changes nothing."""
        with _sorted_errors():
            self._redis.hsetnx(_batch(batch.name), "next", "0")
            self._redis.hset(_batch(batch.name), mapping={"images": batch.images, "lane": batch.lane})
            self._redis.zadd(_OPEN, {batch.name: batch.created.timestamp()}, nx=True)

    def close_batch(self, batch: str) -> None:
        """Take a finished batch out of the dispatcher's round; its counts stay."""
        with _sorted_errors():
            self._redis.zrem(_OPEN, batch)

    def open_batches(self) -> list[str]:
        """Names of the batches that are being fed, oldest first."""
        with _sorted_errors():
            return cast(list[str], self._redis.zrange(_OPEN, 0, -1))

    def lane(self, batch: str) -> Literal["live", "bulk"]:
        """The lane that the batch was opened in."""
        with _sorted_errors():
            return "live" if self._redis.hget(_batch(batch), "lane") == "live" else "bulk"

    def next_index(self, batch: str) -> int:
        """The first index of the batch that was never enqueued."""
        with _sorted_errors():
            return int(cast(str | None, self._redis.hget(_batch(batch), "next")) or 0)

    def advance(self, batch: str, index: int) -> None:
        """Remember that every image before ``index`` has been enqueued."""
        with _sorted_errors():
            self._redis.hset(_batch(batch), "next", str(index))

    def counts(self, batch: str) -> Counts | None:
        """Counts of a batch, or ``None`` where the ledger does not know it."""
        with _sorted_errors(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hget(_batch(batch), "images")
            pipe.bitcount(_bitmap(batch, "done"))
            pipe.bitcount(_bitmap(batch, "failed"))
            images, done, failed = pipe.execute()
        return None if images is None else Counts(int(images), done, failed)

    # Images

    def enqueue(self, job: ImageJob) -> bool:
        """Put an image in flight; ``False`` where it is finished or in flight already."""
        return (
            self._run(
                "enqueue",
                [_INFLIGHT, _STATES, _JOBS, *_bitmaps(job.batch)],
                [job.member, job.index, job.to_json(), _ms(self._settings.queued_look)],
            )
            == 1
        )

    def claim(self, job: ImageJob, owner: str) -> Claim | Literal["taken", "finished", "unknown"]:
        """Take an image for this owner, for the length of a lease."""
        status, attempt, transients = cast(
            tuple[Literal["claimed", "taken", "finished", "unknown"], int, int],
            self._run(
                "claim",
                [_INFLIGHT, _STATES, *_bitmaps(job.batch)],
                [job.member, job.index, owner, _ms(self._settings.lease)],
            ),
        )
        return Claim(job, owner, attempt, transients) if status == "claimed" else status

    def heartbeat(self, claim: Claim) -> bool:
        """Extend a lease; ``False`` where the image is this owner's no longer."""
        return (
            self._run(
                "heartbeat", [_INFLIGHT, _STATES], [claim.job.member, claim.owner, _ms(self._settings.lease)]
            )
            == 1
        )

    def finish(self, job: ImageJob, owner: str, outcome: Literal["done", "failed"]) -> bool:
        """Record an outcome whose record is written; ``False`` where a failure came too late to count."""
        return (
            self._run(
                "finish",
                [_INFLIGHT, _STATES, _JOBS, *_bitmaps(job.batch)],
                [job.member, job.index, owner, outcome],
            )
            == 1
        )

    def refuse(self, batch: str, index: int) -> None:
        """Count an image as failed that never was in flight: its input was refused when it was planned."""
        with _sorted_errors():
            self._redis.setbit(_bitmap(batch, "failed"), index, 1)

    def postpone(self, claim: Claim, pause: float, *, counted: bool = True) -> int:
        """Give an image back, to be sent again after ``pause`` seconds.

        Returns:
            How many transient failures it has had (this one included, where ``counted``); -1 where the lease
            was lost.
        """
        return cast(
            int,
            self._run(
                "postpone",
                [_INFLIGHT, _STATES],
                [claim.job.member, claim.owner, _ms(pause), int(counted)],
            ),
        )

    def requeue(self, owner: str, limit: int = 200) -> list[Due]:
        """Take up to ``limit`` images whose time has come; poison is handed to ``owner`` to be recorded."""
        rows = cast(
            list[tuple[str, Literal["expired", "resend", "poison"], int, str, int]],
            self._run(
                "requeue",
                [_INFLIGHT, _STATES, _JOBS],
                [_ms(self._settings.queued_look), self._settings.max_crashes, limit, owner],
            ),
        )
        return [
            Due(ImageJob.model_validate_json(job), why, attempts, bool(expired))
            for _, why, attempts, job, expired in rows
        ]

    def in_flight(self) -> int:
        """Images that are queued, running or waiting."""
        with _sorted_errors():
            return self._redis.zcard(_INFLIGHT)

    def states(self) -> dict[str, int]:
        """In-flight images by state: queued, running, waiting, poison."""
        with _sorted_errors():
            entries = cast(list[str], self._redis.hvals(_STATES))
        counted = dict.fromkeys(("queued", "running", "waiting", "poison"), 0)
        for entry in entries:
            counted[entry.partition("|")[0]] += 1
        return counted

    def queue_length(self, queue: str) -> int:
        """Messages of a Celery queue that no worker has taken yet."""
        with _sorted_errors():
            return self._redis.llen(queue)

    # Worker slots

    def report_slot(self, slot: str) -> None:
        """Say that this worker slot is alive."""
        with _sorted_errors():
            self._redis.zadd(_SLOTS, {slot: self._now_ms()})

    def live_slots(self) -> int:
        """Worker slots heard of lately."""
        with _sorted_errors():
            self._redis.zremrangebyscore(_SLOTS, "-inf", self._now_ms() - _SLOT_SILENCE_MS)
            return self._redis.zcard(_SLOTS)

    def retire_slot(self, slot: str) -> None:
        """Say that this worker slot goes."""
        with _sorted_errors():
            self._redis.zrem(_SLOTS, slot)

    def ping(self) -> bool:
        """Whether Redis answers."""
        with _sorted_errors():
            return bool(self._redis.ping())

    def _now_ms(self) -> int:
        seconds, micros = self._redis.time()
        return seconds * 1000 + micros // 1000

    def _run(self, script: str, keys: list[str], args: list[str | int | bytes]) -> object:
        with _sorted_errors():
            return self._scripts[script](keys=keys, args=args)


def _batch(batch: str) -> str:
    return f"{_PREFIX}batch:{batch}"


def _bitmap(batch: str, outcome: str) -> str:
    return f"{_batch(batch)}:{outcome}"


def _bitmaps(batch: str) -> tuple[str, str]:
    return _bitmap(batch, "done"), _bitmap(batch, "failed")


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


@contextmanager
def _sorted_errors() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise LedgerUnavailable(f"Redis did not do what was asked: {type(error).__name__}") from error
