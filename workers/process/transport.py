"""kombu's Redis transport without its own bookkeeping of messages, which the ledger does.

kombu notes every message that it hands out, deletes the note when it is acknowledged, and resends messages not
acknowledged within an hour. The ledger does all this sooner and by image, so here it would only cost two requests
to Redis a message, send messages twice, and, in a Redis that is full, end the worker.
"""

from __future__ import annotations

from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis

_NO_MESSAGE = (AttributeError, LookupError, RecursionError, TypeError, ValueError)

_log = structlog.get_logger(__name__)


class Unnoted(redis.QoS):
    """Takes messages without noting them; ``worker_disable_prefetch`` limits how many at a time."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Nothing."""

    def ack(self, delivery_tag: str) -> None:
        """Nothing."""

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Nothing: the ledger sends the message again, if it is one of an image in flight."""

    def restore_unacked(self, client: Any = None) -> None:
        """Nothing."""

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Nothing."""


class Channel(redis.Channel):
    """Takes messages from lists that are known by name."""

    QoS = Unnoted

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except _NO_MESSAGE as error:  # it would end the worker; the ledger knows the image, if there was one
            _log.warning("a message was dropped", error=type(error).__name__)
            raise Empty from error

    def _queue_bind(self, *args: Any, **kwargs: Any) -> None:
        # Bindings serve those who publish through exchanges, which nobody does.
        pass


class Transport(redis.Transport):
    """For Celery's ``broker_transport``."""

    Channel = Channel
