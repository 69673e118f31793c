"""The dispatcher: keeps a small window of images in the queue, taken in turn from the open batches.

The window is the back-pressure: whatever an archive's size, Redis holds only what the workers will do next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import structlog

from dermbatch import layout, metrics
from dermbatch.errors import DermbatchError
from dermbatch.failures import write_failure
from dermbatch.ledger import Due, Ledger
from dermbatch.records import Batch, ImageJob, ManifestEntry
from dermbatch.settings import LedgerSettings
from dermbatch.store import ObjectStore
from orchestrator.planner import read_batch, read_manifest_part

_log = structlog.get_logger(__name__)

Send = Callable[[ImageJob, str], None]
"""Puts a job into the queue of a lane."""

_SLOTS_BEFORE_ANY_WORKER = 4
"""What the window is made for while no worker has reported: something must wait, so that scaling sees work."""


class Dispatcher:
    """Feeds the queue; also sends again what the ledger says is due.

    Args:
        store: Holds the manifests.
        ledger: Knows what is in flight.
        send: Puts a message into the queue.
        settings: The size of the window.
        name: Of this orchestrator, as owner of poison images.
    """

    def __init__(
        self, store: ObjectStore, ledger: Ledger, send: Send, settings: LedgerSettings, name: str
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._send = send
        self._settings = settings
        self._name = name
        self._feeds: dict[str, Iterator[ManifestEntry]] = {}
        self._batches: dict[str, Batch] = {}

    def feed(self) -> int:
        """Fill the window from the open batches, one image of each in turn, ``live`` batches first.

        Returns:
            How many images were put into the queue or refused.
        """
        slots = self._ledger.live_slots() or _SLOTS_BEFORE_ANY_WORKER
        room = slots * self._settings.window_per_slot - self._ledger.in_flight()
        names = self._ledger.open_batches()
        self._forget_closed(names)
        try:
            return self._fill(names, room)
        except DermbatchError:
            self._feeds.clear()  # what was read but not taken is read again, from where the ledger stands
            raise

    def repair(self) -> int:
        """Send again what is due: silent workers' images, pauses that ended, lost messages; record poison."""
        due = self._ledger.requeue(self._name)
        for item in due:
            if item.lease_expired:
                metrics.LEASE_EXPIRIES.inc()
                metrics.IMAGES.labels("crashed").inc()
                _log.warning("lease expired", batch=item.job.batch, index=item.job.index, attempts=item.attempts)
            if item.why == "poison":
                self._bury(item)
            else:
                self._send(item.job, self._ledger.lane(item.job.batch))
        return len(due)

    def _fill(self, names: list[str], room: int) -> int:
        taken = 0
        for lane in ("live", "bulk"):
            waiting = [name for name in names if self._batch(name).lane == lane]
            while waiting and taken < room:
                for name in list(waiting)[: room - taken]:
                    entry = next(self._entries(name), None)
                    if entry is None:
                        waiting.remove(name)
                    else:
                        self._take(self._batch(name), entry)
                        taken += 1
        return taken

    def _take(self, batch: Batch, entry: ManifestEntry) -> None:
        if entry.refusal is not None or entry.source is None:
            self._refuse(batch, entry)
        else:
            job = ImageJob(
                batch=batch.name,
                index=entry.index,
                name=entry.name,
                source=entry.source,
                stages=batch.stages,
                models=batch.models,
            )
            # Ledger first: a crash before the send is mended when the ledger looks at the image again.
            if self._ledger.enqueue(job):
                self._send(job, batch.lane)
                metrics.DISPATCHED.inc()
        self._ledger.advance(batch.name, entry.index + 1)

    def _refuse(self, batch: Batch, entry: ManifestEntry) -> None:
        refusal = entry.refusal
        self._record_failure(
            batch.name,
            entry.index,
            entry.name,
            reason=refusal.reason if refusal else "no_source",
            message=refusal.message if refusal else "the manifest names no object",
            attempts=0,
            source=entry.source,
        )
        self._ledger.refuse(batch.name, entry.index)

    def _bury(self, item: Due) -> None:
        job = item.job
        self._record_failure(
            job.batch,
            job.index,
            job.name,
            reason="poison",
            message=f"the worker died {self._settings.max_crashes} times while it had this image",
            attempts=item.attempts,
            source=job.source,
        )
        self._ledger.finish(job, self._name, "failed")

    def _record_failure(
        self, batch: str, index: int, name: str, *, reason: str, message: str, attempts: int, source: str | None
    ) -> None:
        write_failure(
            self._store,
            batch=batch,
            index=index,
            name=name,
            source=source,
            reason=reason,
            message=message,
            permanent=True,
            attempts=attempts,
        )
        metrics.IMAGES.labels("failed").inc()
        metrics.FAILURES.labels(reason).inc()
        _log.info("failed", batch=batch, index=index, reason=reason)

    def _batch(self, name: str) -> Batch:
        if name not in self._batches:
            self._batches[name] = read_batch(self._store, name)
        return self._batches[name]

    def _entries(self, name: str) -> Iterator[ManifestEntry]:
        if name not in self._feeds:
            self._feeds[name] = self._manifest(self._batch(name), self._ledger.next_index(name))
        return self._feeds[name]

    def _manifest(self, batch: Batch, start: int) -> Iterator[ManifestEntry]:
        """Entries from index ``start`` on, one part in memory at a time."""
        while start < batch.images:
            part, offset = layout.part_of(start)
            entries = read_manifest_part(self._store, batch.name, part)
            yield from entries[offset:]
            start += len(entries) - offset

    def _forget_closed(self, names: list[str]) -> None:
        for name in set(self._batches) - set(names):
            del self._batches[name]
            self._feeds.pop(name, None)
