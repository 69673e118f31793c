"""The ledger's connection: where its data lie in Redis, its scripts, and the mapping of Redis's errors to ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from dermbatch.errors import LedgerUnavailable
from dermbatch.settings import RedisSettings

PREFIX = "dermbatch:"
INFLIGHT, STATES, JOBS, COUNTS = PREFIX + "inflight", PREFIX + "states", PREFIX + "jobs", PREFIX + "counts"
FLIGHT = (INFLIGHT, STATES, JOBS, COUNTS)
"""The images in flight: their times, what is kept about each, their messages, and the number per batch."""

OPEN, SLOTS, CLOCK = PREFIX + "open", PREFIX + "slots", PREFIX + "clock"
LEADER, WAKE, WATCH_LOOK = PREFIX + "leader", PREFIX + "wake", PREFIX + "watch:look"

CLOSED = PREFIX + "closed"
"""Channel on which the names of batches are published when they are forgotten."""

BATCH = PREFIX + "batch:"
"""A batch's keys begin with it; ``standing`` of ``scripts/prelude.lua`` names them too."""


def batch_of(name: str) -> str:
    """Hash with what is known about a batch."""
    return BATCH + name


def reasons_of(name: str) -> str:
    """Hash of its failures by reason."""
    return f"{BATCH}{name}:reasons"


def rows_of(name: str) -> str:
    """List of its table's rows that are not gathered yet."""
    return f"{BATCH}{name}:rows"


def bitmaps_of(name: str) -> tuple[str, str]:
    """Its bitmaps: done, failed."""
    return f"{BATCH}{name}:done", f"{BATCH}{name}:failed"


def milliseconds(seconds: float) -> int:
    """The unit in which scripts count."""
    return round(seconds * 1000)


@contextmanager
def sorted_errors() -> Iterator[None]:
    """Raise Redis's errors as :class:`LedgerUnavailable`."""
    try:
        yield
    except redis.OutOfMemoryError as error:
        raise LedgerUnavailable(
            "Redis is full: it has reached its maxmemory; raise it, or wait until batches have ended",
            reason="ledger_full",
        ) from error
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


def _whole(script: str, prelude: str) -> str:
    """A script with those functions of the prelude that it calls: each one costs time at every run."""
    flags, _, rest = script.partition("\n")  # Redis wants this line to be the first
    functions = {block.partition("local function ")[2].partition("(")[0]: block for block in prelude.split("\n\n")}
    called = [block for name, block in functions.items() if name and f"{name}(" in rest]
    return "\n".join([flags, *called, rest])


class Connection:
    """A client of Redis with the ledger's scripts; make it after a fork.

    Attributes:
        redis: The client.
        blocking: Another client, for calls that wait in Redis.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self.redis = _client(settings, socket_timeout=10, tries=3)
        # These calls wait by Redis's clock, which may step backwards: then the socket's time-out ends them.
        self.blocking = _client(settings, socket_timeout=2, tries=0)
        texts = {
            file.name.removesuffix(".lua"): file.read_text(encoding="utf-8")
            for file in files(__package__).joinpath("scripts").iterdir()
        }
        prelude = texts.pop("prelude")
        self._scripts = {name: self.redis.register_script(_whole(text, prelude)) for name, text in texts.items()}

    def run(self, script: str, keys: Sequence[str], args: Sequence[str | int | float]) -> object:
        """Run a script and return its answer.

        Raises:
            LedgerUnavailable: If Redis does not answer, or is full.
        """
        with sorted_errors():
            return self._scripts[script](keys=keys, args=args)
