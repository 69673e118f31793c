"""The orchestrator's service: dispatches, repairs, and closes finished batches with a report."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import structlog
from celery import Celery
from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dermbatch import layout
from dermbatch.errors import DermbatchError, LedgerUnavailable
from dermbatch.ledger import Ledger
from dermbatch.queue import QUEUES, TASK, celery_config
from dermbatch.records import ImageJob
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from orchestrator.dispatcher import Dispatcher
from orchestrator.report import build_report

_log = structlog.get_logger(__name__)

_PAUSE_AFTER_ERROR = 2.0


class LedgerMetrics(Collector):
    """In-flight images and queue depth, read from the ledger when Prometheus asks."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """Gauges of the moment; none where Redis does not answer, so that no old value is taken for a new one."""
        in_flight = GaugeMetricFamily(
            "dermbatch_in_flight_images", "Images in flight, by state.", labels=["state"]
        )
        depth = GaugeMetricFamily("dermbatch_queue_depth", "Messages no worker has taken yet.", labels=["lane"])
        slots = GaugeMetricFamily("dermbatch_worker_slots", "Worker slots heard of lately.")
        try:
            for state, count in self._ledger.states().items():
                in_flight.add_metric([state], count)
            for lane, queue in QUEUES.items():
                depth.add_metric([lane], self._ledger.queue_length(queue))
            slots.add_metric([], self._ledger.live_slots())
            open_batches = GaugeMetricFamily(
                "dermbatch_open_batches", "Batches not finished.", value=len(self._ledger.open_batches())
            )
        except LedgerUnavailable:
            return
        yield from (in_flight, depth, slots, open_batches)


class Service:
    """The loop of one orchestrator; run it in the main thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = ObjectStore(settings.store)
        self._ledger = Ledger(settings.redis, settings.ledger)
        self._celery = Celery("dermbatch")
        self._celery.conf.update(celery_config(settings.redis))
        self._dispatcher = Dispatcher(
            self._store, self._ledger, self._send, settings.ledger, f"{socket.gethostname()}/{os.getpid()}"
        )
        self._stopping = threading.Event()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        if self._settings.orchestrator.metrics_port:
            REGISTRY.register(LedgerMetrics(self._ledger))
            start_http_server(
                self._settings.orchestrator.metrics_port, addr=self._settings.orchestrator.metrics_address
            )
        _log.info("orchestrator ready")
        while not self._stopping.is_set():
            self._stopping.wait(self._turn())
        _log.info("orchestrator stopped")

    def _turn(self) -> float:
        """One round. Returns the pause before the next."""
        try:
            self._dispatcher.repair()
            self._dispatcher.feed()
            self._close_finished()
        except DermbatchError as error:
            _log.warning("turn failed", reason=error.reason, message=str(error))
            return _PAUSE_AFTER_ERROR
        return self._settings.orchestrator.tick

    def _close_finished(self) -> None:
        for name in self._ledger.open_batches():
            counts = self._ledger.counts(name)
            if counts is not None and counts.finished:
                self._store.put(layout.report(name), build_report(self._store, name), "text/html")
                self._ledger.close_batch(name)
                _log.info("batch finished", batch=name, done=counts.done, failed=counts.failed)

    def _send(self, job: ImageJob, lane: str) -> None:
        try:
            self._celery.send_task(
                TASK, args=[job.model_dump(mode="json")], queue=QUEUES[lane], ignore_result=True
            )
        except self._celery.connection_for_write().connection_errors as error:
            raise LedgerUnavailable("the message could not be put into the queue") from error

    def _stop(self, number: int, frame: Any) -> None:
        self._stopping.set()
