"""Names and configuration of the Celery queue that orchestrator and workers share.

The ledger redelivers, so Celery is a plain, early-acknowledging queue here: no result backend, no visibility
time-out to wait for, no ETA, no prefetch beyond the running task (``docs/decisions/0002-ledger.md``).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from dermbatch.records.asked import Lane
from dermbatch.settings import RedisSettings

TASK = "dermbatch.process_image"
"""The one task, known to the orchestrator by this name alone. Its argument is an ``ImageJob`` as signed JSON."""

QUEUES: dict[Lane, str] = {"live": "dermbatch.live", "bulk": "dermbatch.bulk"}
"""The queue of each lane; workers look into ``live`` first, and often enough into ``bulk``."""


LANES = {queue: lane for lane, queue in QUEUES.items()}

SOCKET_TIMEOUT = 10.0
"""Seconds that a read from Redis may take: ten times what Redis lets a worker wait for a message. Without it, a
worker that reads an answer that went down with a restarted Redis waits for ever, and takes no more messages."""

_ROUNDING = 1e-9  # of sums of shares


class LaneOrder:
    """The order in which a worker looks into its queues: ``live`` first, but ``bulk`` gets its share.

    Each live message adds the share to what is owed to bulk; once that amounts to a message, bulk comes
    first. So neither starves: of 100 messages that a worker takes while both wait, ``100 * bulk_share`` are bulk.
    If one queue is empty, the other has the worker to itself, and nothing is saved up for later.

    The methods are those that kombu requires of a ``queue_order_strategy`` (``kombu.utils.scheduling``).

    Args:
        bulk_share: Share of bulk, from 0 (only where no live message waits) to below 1.
    """

    def __init__(self, bulk_share: float) -> None:
        self._share = bulk_share
        self._owed = 0.0
        self._queues: list[str] = []

    def update(self, queues: Iterable[str]) -> None:
        """Take over the names of the queues that are consumed, in any order."""
        self._queues = sorted(queues, key=lambda queue: queue == QUEUES["bulk"])

    def consume(self, count: int) -> list[str]:
        """The queues in the order in which Redis should look into them for the next message."""
        bulk_first = self._owed > 0 and self._owed >= 1 - self._share - _ROUNDING
        return (self._queues[::-1] if bulk_first else self._queues)[:count]

    def rotate(self, used: str) -> str:
        """Note which queue a message came from."""
        if used == QUEUES["bulk"]:
            self._owed = max(0.0, self._owed - (1 - self._share))
        else:
            self._owed = min(1.0, self._owed + self._share)
        return used


def celery_config(settings: RedisSettings, *, bulk_share: float = 0) -> dict[str, Any]:
    """Celery's settings for both sides (its names).

    Args:
        settings: Where the queue is.
        bulk_share: For consumers of messages: share of the bulk lane while live messages wait too.
    """
    socket: dict[str, Any] = {
        "socket_keepalive": True,
        "health_check_interval": 10,
        "socket_connect_timeout": 5,
        "socket_timeout": SOCKET_TIMEOUT,
        "queue_order_strategy": partial(LaneOrder, bulk_share),  # kombu takes a name or what makes the strategy
    }
    return {
        "broker_url": settings.url,
        "broker_transport_options": socket,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "task_default_queue": QUEUES["bulk"],
        "task_create_missing_queues": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_acks_late": False,
        "task_publish_retry": False,  # the dispatcher tries again itself; it must not hang here
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_send_task_events": False,
        "worker_enable_remote_control": False,
        "worker_hijack_root_logger": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "enable_utc": True,
    }
