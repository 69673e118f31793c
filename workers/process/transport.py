"""kombu's Redis transport without its own bookkeeping of messages: the ledger keeps it.

kombu notes every message that it hands out, takes the note away when it is acknowledged, and sends again what was
not acknowledged for an hour. The ledger does all this sooner and by image, so here it would only cost two requests
to Redis a message, send messages twice, and, in a Redis that is full, end the worker.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis


class Unnoted(redis.QoS):
    """Takes messages without a note; how many at a time is bounded by ``worker_disable_prefetch``."""

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

    def _queue_bind(self, *args: Any, **kwargs: Any) -> None:
        # Bindings are for who publishes through exchanges; nobody does.
        pass


class Transport(redis.Transport):
    """For Celery's ``broker_transport``."""

    Channel = Channel
