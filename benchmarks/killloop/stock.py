"""The same work as a stock Celery task, with what Celery itself offers against crashes.

``acks_late`` and ``task_reject_on_worker_lost``, retries with pauses, and a visibility time-out far below the
default hour, so that what it redelivers, it redelivers in time. The record is written with a plain PUT.

``python -m benchmarks.killloop.stock`` runs a worker.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Any

from celery import Celery, signals

from benchmarks.killloop import work
from dermbatch import layout
from dermbatch.settings import RedisSettings, Settings, load
from dermbatch.store import ObjectStore

TASK = "stock.process_image"
VISIBILITY = 15
"""Seconds after which Celery's transport gives an unacknowledged message to another worker."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def celery_app(settings: RedisSettings) -> Celery:
    """The application of both sides."""
    app = Celery("stock", broker=settings.url)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        broker_transport_options={
            "visibility_timeout": VISIBILITY,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    return app


def worker_app(settings: Settings) -> Celery:
    """The application with its task."""
    app = celery_app(settings.redis)
    stores: list[ObjectStore] = []

    @signals.worker_process_init.connect(weak=False)
    def open_store(**_: Any) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # as our own workers' processes
        stores.append(ObjectStore(settings.store))

    @app.task(name=TASK, bind=True, autoretry_for=(Exception,), max_retries=10, retry_backoff=1)
    def run(self: Any, batch: str, index: int) -> None:
        job, store = work.job(batch, index), stores[0]
        made = work.process(job, store=store, attempt=self.request.retries + 1, worker=str(os.getpid()))
        store.put(layout.result(batch, index), made.to_json(), "application/json")

    return app


def main() -> None:
    """Run a worker until SIGTERM."""
    settings = load()
    arguments = ["worker", "--pool=prefork", f"--concurrency={settings.worker.concurrency}", "--loglevel=WARNING"]
    worker_app(settings).worker_main([*arguments, "--without-gossip", "--without-mingle", "--without-heartbeat"])


if __name__ == "__main__":
    main()
