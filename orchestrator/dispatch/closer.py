"""Closes batches in parallel with the dispatcher, and gathers the rows of their tables while they run."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

import structlog
from pydantic import SecretStr

from dermbatch import layout, metrics
from dermbatch.errors import DermbatchError
from dermbatch.ledger import BatchState, Ledger
from dermbatch.records.row import opened
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import asked
from orchestrator.batches.growing import seal
from orchestrator.metering.accounts import Accounts
from orchestrator.reporting.closing import Closing, State, close, gather
from orchestrator.reporting.table import parts
from orchestrator.similar.growing import grow, indexes
from orchestrator.steering.controls import halt, is_damage

_log = structlog.get_logger(__name__)

_PAUSE_AFTER_ERROR = 5.0
_AT_A_TIME = 4


class Closer:
    """Closes batches whose images all have their outcomes.

    Args:
        store: Where they are.
        ledger: Knows when.
        readers: Records read at a time.
        key: The key that rows are signed with; none if they are not.
        accounts: Price lists, and the key that reports are signed with.
    """

    def __init__(
        self,
        store: ObjectStore,
        ledger: Ledger,
        readers: int,
        key: SecretStr | None = None,
        accounts: Accounts = Accounts(),  # noqa: B008 - it is frozen
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._readers = readers
        self._key = key
        self._accounts = accounts
        self._pool = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="closer")
        self._closing: dict[str, Future[None]] = {}
        self._not_before: dict[str, float] = {}

    def look(self) -> None:
        """Start closing what is ready, and tidy up what is closed. Does not wait."""
        for name, future in list(self._closing.items()):
            if future.done():
                del self._closing[name]
                if not _went_well(name, future):
                    self._not_before[name] = time.monotonic() + _PAUSE_AFTER_ERROR
        now = time.monotonic()
        self._not_before = {name: then for name, then in self._not_before.items() if then > now}
        states = [state for state in self._ledger.batches.all() if state.name not in self._closing]
        waiting = self._ledger.batches.rows_waiting([state.name for state in states])
        for state in states:
            if state.name in self._not_before:
                continue
            if state.state == "cancelled" and state.in_flight:
                self._ledger.images.drop(state.name)
            elif (state.finished and state.state == "open") or state.state == "cancelled":
                self._closing[state.name] = self._pool.submit(self._close, state)
            elif waiting[state.name] >= parts.ROWS:
                self._closing[state.name] = self._pool.submit(self._gather, state.name)

    def stop(self) -> None:
        """Wait for what is being closed; what waits for its turn is left to the next leader."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _gather(self, name: str) -> None:
        """Write a part of the table for as long as enough rows wait for one."""
        while len(lines := self._ledger.batches.rows(name, parts.ROWS)) == parts.ROWS:
            gather(self._store, asked(self._store, name), self._opened(name, lines))
            self._ledger.batches.drop_rows(
                name, parts.ROWS
            )  # last, so that after an interruption the same part is written again

    def _opened(self, name: str, lines: list[str]) -> list[str]:
        found = [opened(line, name, self._key) for line in lines]
        if None in found:
            _log.warning("rows from an unknown writer skipped", batch=name, rows=found.count(None))
        return [line for line in found if line is not None]

    def _close(self, state: BatchState) -> None:
        cancelled = state.state == "cancelled"
        try:
            closing = self._end(state, cancelled=cancelled)
        except DermbatchError as error:
            if cancelled or not is_damage(error):
                raise
            halt(self._store, self._ledger, state, str(error))
            return
        if closing.missing:
            # Redis and the object store differ, and the object store is the record.
            _log.warning("outcomes without a record", batch=state.name, images=len(closing.missing))
            self._ledger.batches.miss(state.name, closing.missing)
            return
        self._store.delete(layout.control(state.name))
        self._ledger.batches.forget(state.name)
        _log.info("batch closed", batch=state.name, done=state.done, failed=state.failed, cancelled=cancelled)
        if closing.summary is not None and closing.summary.met is not None:
            tenant = asked(self._store, state.name).order.tenant
            metrics.DEADLINES.labels(tenant, "met" if closing.summary.met else "missed").inc()
        self._take_into_indexes(state.name)

    def _take_into_indexes(self, name: str) -> None:
        """Add it to the indexes of similar cases; ``dermbatch cases update`` makes up for failures here."""
        try:
            for index in indexes(self._store):
                grow(self._store, index.model.sha256, name)
        except DermbatchError as error:
            _log.warning("similar cases not added", batch=name, reason=error.reason, message=str(error))

    def _end(self, state: BatchState, *, cancelled: bool) -> Closing:
        batch = asked(self._store, state.name)
        if batch.growing:  # cancelled: what is taken in from now on is another batch's
            batch = seal(self._store, state.name)
        self._gather(state.name)
        lines = self._opened(state.name, self._ledger.batches.rows(state.name, parts.ROWS))
        slots = self._ledger.slots.live()
        how: State = "cancelled" if cancelled else "finished"
        return close(self._store, batch, how, slots, self._readers, lines, self._accounts)


def _went_well(name: str, future: Future[None]) -> bool:
    try:
        future.result()
    except DermbatchError as error:
        _log.warning("batch not closed yet", batch=name, reason=error.reason, message=str(error))
    except Exception:
        _log.exception("batch not closed", batch=name)
    else:
        return True
    return False
