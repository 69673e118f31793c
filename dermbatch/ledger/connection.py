"""The ledger's connection: keys, scripts, and Redis's errors as ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from dermbatch.errors import LedgerUnavailable
from dermbatch.settings import LedgerSettings, RedisSettings

PREFIX = "dermbatch:"
INFLIGHT, STATES, JOBS = PREFIX + "inflight", PREFIX + "states", PREFIX + "jobs"
COUNTS, OPEN, SLOTS = PREFIX + "counts", PREFIX + "open", PREFIX + "slots"
LEADER, WAKE = PREFIX + "leader", PREFIX + "wake"
CLOCK = PREFIX + "clock"
WATCH_LOOK = PREFIX + "watch:look"

_SCRIPTS = (
    "amend",
    "claim",
    "drop",
    "enqueue",
    "feed_from",
    "finish",
    "give_back",
    "grow",
    "heartbeat",
    "lead",
    "open",
    "postpone",
    "refuse",
    "requeue",
    "unfinished",
)


def batch_key(batch: str) -> str:
    """Hash with what is known of a batch."""
    return f"{PREFIX}batch:{batch}"


def reasons_key(batch: str) -> str:
    """Hash of its failures by reason."""
    return f"{batch_key(batch)}:reasons"


def bitmap_keys(batch: str) -> tuple[str, str]:
    """Its bitmaps: done, failed."""
    return f"{batch_key(batch)}:done", f"{batch_key(batch)}:failed"


def milliseconds(seconds: float) -> int:
    """What scripts count in."""
    return round(seconds * 1000)


@contextmanager
def sorted_errors() -> Iterator[None]:
    """Redis's errors as :class:`LedgerUnavailable`."""
    try:
        yield
    except redis.OutOfMemoryError as error:
        raise LedgerUnavailable("Redis is full: it has reached its maxmemory", reason="ledger_full") from error
    except redis.RedisError as error:
        raise LedgerUnavailable(f"Redis did not do what was asked: {type(error).__name__}") from error


def _client(settings: RedisSettings, *, socket_timeout: float, tries: int) -> redis.Redis:
    return redis.Redis.from_url(
        settings.url,
        decode_responses=True,
        socket_keepalive=True,
        socket_connect_timeout=5,
        socket_timeout=socket_timeout,
        health_check_interval=10,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1), tries),
    )


class Connection:
    """A client of Redis with the ledger's scripts; make it after a fork."""

    def __init__(self, redis_settings: RedisSettings, settings: LedgerSettings) -> None:
        self._settings = settings
        self._redis = _client(redis_settings, socket_timeout=10, tries=3)
        # What waits there waits by Redis's clock, which may step backwards: then the socket ends it.
        self._blocking = _client(redis_settings, socket_timeout=2, tries=0)
        folder = files(__package__).joinpath("scripts")
        self._scripts = {
            name: self._redis.register_script(folder.joinpath(f"{name}.lua").read_text(encoding="utf-8"))
            for name in _SCRIPTS
        }

    def ping(self) -> bool:
        """Whether Redis answers."""
        with sorted_errors():
            return bool(self._redis.ping())

    def memory(self) -> tuple[int, int]:
        """Bytes that Redis uses, and may use at most; 0 where it has no limit of its own."""
        with sorted_errors():
            said = self._redis.info("memory")
        return int(said["used_memory"]), int(said["maxmemory"])

    def _now_ms(self) -> int:
        seconds, micros = self._redis.time()
        return seconds * 1000 + micros // 1000

    def _run(self, script: str, keys: Sequence[str], args: Sequence[str | int | float]) -> object:
        with sorted_errors():
            return self._scripts[script](keys=keys, args=args)
