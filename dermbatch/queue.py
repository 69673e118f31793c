"""Names and configuration of the Celery queue that orchestrator and workers share.

The ledger redelivers, so Celery is a plain, early-acknowledging queue here: no result backend, no visibility
time-out to wait for, no ETA, no prefetch beyond the running task (``docs/decisions/0002-ledger.md``).
"""

from __future__ import annotations

from typing import Any

from dermbatch.settings import RedisSettings

TASK = "dermbatch.process_image"
"""The one task, known to the orchestrator by this name alone. Its argument is an ``ImageJob`` as JSON."""

QUEUES = {"live": "dermbatch.live", "bulk": "dermbatch.bulk"}
"""The queue of each lane; workers drain ``live`` first."""


def celery_config(settings: RedisSettings) -> dict[str, Any]:
    """Celery's settings for both sides (its names)."""
    socket: dict[str, Any] = {
        "socket_keepalive": True,
        "health_check_interval": 10,
        "socket_connect_timeout": 5,
        "queue_order_strategy": "priority",
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
