"""Gathering: the batch of a rule that takes images in for an hour or a day.

For each handful of images the order of writing is: the part of the manifest, then ``batch.json``, then the ledger.
The manifest is the record of what was taken in; the others catch up after a crash. Part and record are written
only over the version that this writer saw last, so an overtaken writer is refused.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Self

import structlog

from dermbatch import __version__, layout
from dermbatch.errors import DermbatchError, LedgerUnavailable, PermanentError
from dermbatch.ledger import Ledger
from dermbatch.records.asked import Batch, BatchControl, ManifestEntry, Order
from dermbatch.store import ObjectStore
from dermbatch.stored import JSON_LINES, write_once
from orchestrator.batches.entries import content_of, read_batch
from orchestrator.batches.growing import write_batch
from orchestrator.planning.dedup import Contents
from orchestrator.planning.privacy.deidentifier import Deidentifier
from orchestrator.watching.rules.rules import Rule

_log = structlog.get_logger(__name__)

_WRITTEN_EVERY = 1.0
"""Seconds after which the images of a large archive so far are passed on."""


class Overtaken(DermbatchError):
    """Somebody else has written what this watcher writes: everything it knows must be read again."""

    reason = "overtaken"


def window(rule: Rule, now: datetime) -> tuple[str, datetime]:
    """Name of the rule's batch of this hour or day (UTC), and when that ends."""
    at = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if rule.batches == "hourly":
        return f"{rule.batch}-{at:%Y%m%d-%H}", at + timedelta(hours=1)
    day = at.replace(hour=0)
    return f"{rule.batch}-{day:%Y%m%d}", day + timedelta(days=1)


class Gathering:
    """A batch that grows.

    Args:
        store: Where it is.
        ledger: Is told about its growth.
        batch: Its record.
        etag: ETag of the record.

    Attributes:
        batch: Its record, as this writer wrote or read it last.
    """

    def __init__(self, store: ObjectStore, ledger: Ledger, batch: Batch, etag: str) -> None:
        self.batch = batch
        self._store = store
        self._ledger = ledger
        self._etag = etag
        self._first = 0  # index of the first line of the part that is being filled
        self._lines: list[bytes] = []
        self._part_etag: str | None = None
        self._contents = Contents()
        self._duplicates, self._bytes = batch.duplicates, batch.bytes
        self._unwritten = 0
        self._written_at = time.monotonic()

    @classmethod
    def begin(cls, store: ObjectStore, ledger: Ledger, rule: Rule, order: Order, now: datetime) -> Self:
        """Begin the rule's batch of this hour or day; with a number in its name if that batch has ended already.

        Raises:
            Overtaken: If another watcher has begun it.
        """
        batch, etag = _recorded(store, rule, order, now)
        write_once(store, layout.control(batch.name), BatchControl.of(batch.order))
        gathering = cls(store, ledger, batch, etag)
        gathering._tell(opened=True)
        _log.info("batch begun", batch=batch.name, rule=rule.name)
        return gathering

    @property
    def images(self) -> int:
        """How many it has, including those not written yet."""
        return self._first + len(self._lines)

    @property
    def size(self) -> int:
        """Bytes of the files of these."""
        return self._bytes

    def remember(self, entry: ManifestEntry) -> None:
        """Note an entry of the manifest; to be called in order, before anything else."""
        self._contents.first(content_of(entry), entry.index)

    def take_over(self, number: int, body: bytes, etag: str | None) -> None:
        """Continue a batch that another process has begun, and shut that process out.

        An additional empty line gives the last part a new ETag, which an earlier writer has not seen.

        Args:
            number: Number of the first part of its manifest that is not full.
            body: Body of that part; empty if there is none.
            etag: ETag of that part; none if there is none.

        Raises:
            Overtaken: If another watcher does the same.
        """
        lines = body.rstrip(b"\n")
        empty = len(body) - len(lines) - bool(lines)
        self._first, self._part_etag = number * layout.PART_SIZE, etag
        self._lines = [line + b"\n" for line in lines.splitlines()]
        self._write_part(b"\n" * (empty + 1))
        self._amend(images=self.images)

    def close(self) -> None:
        """Give up the data on disk."""
        self._contents.close()

    def add(self, entry: ManifestEntry) -> None:
        """Take an image in, with its origin; its index is the number of images before it."""
        first = self._contents.first(content_of(entry), entry.index)
        self._duplicates += first is not None
        self._bytes += entry.size or 0
        self._lines.append(entry.model_copy(update={"duplicate_of": first}).to_json() + b"\n")
        self._unwritten += 1

    def is_due(self, more: int) -> bool:
        """Whether it is time to pass on, with this many more images: a part is full, or some time has passed."""
        full = len(self._lines) + more == layout.PART_SIZE
        return full or time.monotonic() - self._written_at > _WRITTEN_EVERY

    def write(self, deidentify: Deidentifier | None = None) -> None:
        """Pass on what was taken in.

        Raises:
            Overtaken: If somebody else writes this batch.
            StoreUnavailable, StoreRefused: If the store fails; it is then unknown what it holds.
        """
        self._written_at = time.monotonic()
        if not self._unwritten:
            return
        if deidentify is not None:
            deidentify.write_originals(self._store, self.batch.name, self.images - self._unwritten, self.images)
        self._write_part()
        self._amend(images=self.images, duplicates=self._duplicates, bytes=self._bytes)
        self._unwritten = 0
        if len(self._lines) == layout.PART_SIZE:
            self._next_part()

    def seal(self) -> None:
        """Take in no more; the batch ends when its images have their outcomes."""
        self.write()
        self._amend(growing=False)
        _log.info("batch sealed", batch=self.batch.name, images=self.images)

    def _next_part(self) -> None:
        self._first, self._lines, self._part_etag = self.images, [], None

    def _write_part(self, behind: bytes = b"") -> None:
        part, _ = layout.part_of(self._first)
        key, body = layout.manifest_part(self.batch.name, part), b"".join(self._lines) + behind
        self._part_etag = self._store.put_if_match(key, body, JSON_LINES, self._part_etag)
        if self._part_etag is None:
            raise Overtaken(f"batch {self.batch.name!r} was written by another watcher")

    def _amend(self, **changes: Any) -> None:
        batch = self.batch.model_copy(update=changes)
        etag = write_batch(self._store, batch, self._etag)
        if etag is None:
            raise Overtaken(f"batch {batch.name!r} was sealed, or written by another watcher")
        self.batch, self._etag = batch, etag
        self._tell()

    def _tell(self, *, opened: bool = False) -> None:
        """Tell the ledger; it may also learn it later from the reconciler."""
        try:
            shard = self._ledger.of(self.batch.name)
            if opened:
                shard.batches.open(self.batch)
            else:
                shard.batches.grow(self.batch)
                shard.slots.wake()
        except LedgerUnavailable as error:
            _log.warning("ledger not told", batch=self.batch.name, reason=error.reason)


def _recorded(store: ObjectStore, rule: Rule, order: Order, now: datetime) -> tuple[Batch, str]:
    """A new batch under the first name that is free, and the ETag of its record."""
    name, until = window(rule, now)
    for number in count(1):
        batch = Batch(
            name=name if number == 1 else f"{name}-{number}",
            created=datetime.now(UTC),
            order=order,
            images=0,
            rule=rule.name,
            growing=True,
            until=until,
            software=__version__,
        )
        etag = write_batch(store, batch, None)
        if etag is not None:
            return batch, etag
        with suppress(PermanentError):  # a damaged record occupies its name, too
            if read_batch(store, batch.name).growing:
                break
    raise Overtaken(f"batch {batch.name!r} was begun by another watcher")
