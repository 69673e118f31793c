"""The orchestrator's service. Several may run: one leads, the others wait to take its place."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from typing import Any

import structlog
from celery import Celery
from prometheus_client import REGISTRY, start_http_server

from dermbatch import metrics
from dermbatch.audit import Audit
from dermbatch.errors import DermbatchError
from dermbatch.ledger import Ledger
from dermbatch.ledger.queue import celery_config
from dermbatch.records.asked import Canary, ImageJob
from dermbatch.records.signature import warn_unsigned
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from orchestrator.dispatch.closer import Closer
from orchestrator.dispatch.dispatcher import Dispatcher
from orchestrator.dispatch.ledger_metrics import LedgerMetrics
from orchestrator.dispatch.messages import Messages
from orchestrator.metering.accounts import Accounts
from orchestrator.steering import canary
from orchestrator.steering.reconciler import reconcile

_log = structlog.get_logger(__name__)

_PAUSE_AFTER_ERROR = 2.0


class Service:
    """The loop of one orchestrator; run it in the main thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = f"{socket.gethostname()}/{os.getpid()}"
        self._store = ObjectStore(settings.store, Audit(settings.audit, "orchestrator"))
        self._ledger = Ledger(settings.redis, settings.ledger)
        celery = Celery("dermbatch")
        celery.conf.update(celery_config(settings.redis))
        messages = Messages(celery, settings.redis.signing_key)
        self._dispatcher = Dispatcher(
            self._store,
            self._ledger,
            messages,
            settings.ledger,
            self._name,
            self._choose,
        )
        key = settings.redis.signing_key
        accounts = Accounts.of(settings.metering)
        self._closer = Closer(self._store, self._ledger, settings.orchestrator.report_readers, key, accounts)
        self._canary: Canary | None = None
        self._leads = False
        self._looked = -math.inf
        self._stopping = threading.Event()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        settings = self._settings.orchestrator
        if settings.metrics_port:
            REGISTRY.register(LedgerMetrics(self._ledger))
            start_http_server(settings.metrics_port, addr=settings.metrics_address)
        warn_unsigned(self._settings.redis.signing_key)
        _log.info("orchestrator ready", name=self._name)
        while not self._stopping.is_set():
            self._turn()
        self._resign()  # first: closing a large batch takes minutes, and another may do the rest
        self._closer.stop()
        _log.info("orchestrator stopped")

    def _turn(self) -> None:
        """One round, and the pause before the next."""
        try:
            if not self._lead():
                self._stopping.wait(self._settings.orchestrator.tick)
                return
            self._look_for_batches()
            self._dispatcher.repair()
            self._closer.look()  # before more is fed, since it frees space in a full Redis
            self._dispatcher.feed()
            self._ledger.slots.sleep(self._settings.orchestrator.tick)
        except DermbatchError as error:
            _log.warning("turn failed", reason=error.reason, message=str(error))
            self._stopping.wait(_PAUSE_AFTER_ERROR)

    def _lead(self) -> bool:
        leads = self._ledger.slots.lead(self._name, self._settings.ledger.leader_lease)
        if leads != self._leads:
            _log.info("takes the lead" if leads else "follows", name=self._name)
            self._looked = -math.inf
        self._leads = leads
        metrics.LEADER.set(leads)
        return leads

    def _look_for_batches(self) -> None:
        """Now and then, and at once where Redis has lost its data."""
        due = time.monotonic() - self._looked > self._settings.orchestrator.look_for_batches
        if due or not self._ledger.slots.remembers():
            self._canary = canary.running(self._store)
            for name in reconcile(self._store, self._ledger):
                _log.info("batch taken up", batch=name)
            self._looked = time.monotonic()

    def _choose(self, job: ImageJob) -> ImageJob:
        return job if self._canary is None else canary.choose(self._canary, job)

    def _resign(self) -> None:
        try:
            self._ledger.slots.resign(self._name)
        except DermbatchError as error:
            _log.info("lead not given back", reason=error.reason)

    def _stop(self, number: int, frame: Any) -> None:
        self._stopping.set()
