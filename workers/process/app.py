"""The Celery application of the workers."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from typing import Any

import cv2
from celery import Celery, signals
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from dermbatch.bounded.nursery import Nursery
from dermbatch.images.imagefile import MODULES
from dermbatch.ledger.queue import QUEUES, TASK, celery_config
from dermbatch.log import configure
from dermbatch.records.signature import warn_unsigned
from dermbatch.settings import Settings
from workers.inference.engine import engine_of
from workers.process.drain import Drain
from workers.process.journey import process
from workers.process.shutdown import Shutdown
from workers.process.task import process_image
from workers.process.workplace import Process, Workplace

TRANSPORT = "workers.process.transport:Transport"

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LAST_WORD = 0.2  # seconds that a process of the pool has for telling the main process that it ends


def worker_arguments(settings: Settings) -> list[str]:
    """What the application's ``worker_main`` is to be called with."""
    return [
        "worker",
        "--pool=prefork",
        f"--concurrency={settings.worker.concurrency}",
        f"--queues={','.join(QUEUES[lane] for lane in settings.worker.lanes)}",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ]


def create_app(settings: Settings, process: Process = process) -> Celery:
    """The application with its one task, for a prefork worker.

    Each process of the pool opens its own :class:`Workplace`: gRPC channels do not survive a fork.

    Args:
        settings: All settings.
        process: The pipeline, from job to result record.
    """
    app = Celery("dermbatch")
    app.conf.update(celery_config(settings.redis, bulk_share=settings.ledger.bulk_share))
    app.conf.broker_transport = TRANSPORT
    drain = Drain(settings.worker.grace)
    Shutdown(settings, drain).connect()
    engine = engine_of(settings)  # pool processes share what it imports
    nursery = Nursery(MODULES)  # before the pool is forked: its processes share it
    places: list[Workplace] = []

    @signals.worker_process_init.connect(weak=False)
    def open_workplace(**_: Any) -> None:
        # A pool process must not outlive a killed parent: it would hold its image without being in any pool.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        cv2.setNumThreads(1)  # the pool is the parallelism
        places.append(Workplace.open(settings, drain, engine, process, nursery))

    @signals.worker_process_shutdown.connect(weak=False)
    def close_workplace(exitcode: int = 0, **_: Any) -> None:
        while places:
            places.pop().close()
        # billiard writes one message now, and then sleeps for a second before it exits: a fifth of one will do.
        last = threading.Timer(_LAST_WORD, os._exit, [exitcode])
        last.daemon = True
        last.start()

    @signals.setup_logging.connect(weak=False)
    def set_up_logging(**_: Any) -> None:
        configure(settings.log_level)

    @signals.worker_ready.connect(weak=False)
    def serve_metrics(**_: Any) -> None:
        warn_unsigned(settings.redis.signing_key)
        if settings.worker.metrics_port:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            start_http_server(
                settings.worker.metrics_port, addr=settings.worker.metrics_address, registry=registry
            )

    @app.task(name=TASK)
    def run(message: object = None, *_: object, **__: object) -> None:
        process_image(places[0], message)  # whatever it contains

    return app
