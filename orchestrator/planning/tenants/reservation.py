"""Reservations: room in a tenant's quota for what is being planned, so that two plans never exceed it together.

All reservations of a tenant are one record, which is replaced only if it is still the one that was read
(``If-Match``, RFC
9110, 13.1.1): of two that reserve at the same moment, one is refused, looks again, and finds the other
reservation.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import accumulate, takewhile

from dermbatch import layout
from dermbatch.errors import DermbatchError, StoreUnavailable, UsageError
from dermbatch.records.asked import PlanRecord
from dermbatch.store import ObjectStore
from dermbatch.stored import JSON
from orchestrator.planning.tenants.quota import Had, Reservations, Reserved, Waiting, reservations, with_reserved
from orchestrator.planning.tenants.tenant import Quota, Tenant

LASTS = timedelta(hours=1)
"""How long a reservation lasts unless it is renewed. Each part of a plan renews it, the last one just before the
batch exists: a planner that was too slow is then measured against what others have by that time."""

_TRIES = 50
_PAUSE = 0.05
"""Most seconds before the record is read again after somebody else has written it."""


class QuotaSpent(UsageError):
    """A tenant's quota does not allow what is asked.

    Args:
        message: What the tenant has, and what was asked.
        images: How many images it allows the batch in all; none if unlimited.
        size: How many bytes, in the same way.
    """

    def __init__(self, message: str, images: int | None, size: int | None) -> None:
        super().__init__(message)
        self.images = images
        self.bytes = size

    def fitting(self, images: int, size: int, more: Sequence[int]) -> int:
        """How many further images it allows, in their order.

        Args:
            images: How many the batch has.
            size: Bytes of these.
            more: Bytes of each further one.
        """
        if self.images is not None:
            more = more[: max(0, self.images - images)]
        if self.bytes is None:
            return len(more)
        room = self.bytes - size
        return sum(1 for _ in takewhile(lambda total: total <= room, accumulate(more)))


class Reservation:
    """Room for one batch.

    Args:
        store: Where batches and reservations are.
        tenant: Whose quota.
        batch: The batch that is being planned, or grows.
        created: When it was asked for.
    """

    def __init__(self, store: ObjectStore, tenant: str, batch: str, created: datetime) -> None:
        self._store = store
        self._tenant = tenant
        self._batch = batch
        self._created = created
        self._serial: int | None = None
        self._others: Had | None = None  # what the tenant has without this batch, as of that serial

    def take(self, quota: Quota, images: int, size: int) -> None:
        """Reserve room, or renew it.

        Args:
            quota: The quota that must allow it.
            images: How many the batch has in all.
            size: Bytes of their files.

        Raises:
            QuotaSpent: If the quota does not allow it; what was reserved before stays.
            StoreUnavailable, StoreRefused: Where the store fails.
        """

        def with_room(book: Reservations) -> Reservations:
            self._check(book, quota, images, size)
            now = datetime.now(UTC)
            kept = {name: one for name, one in book.batches.items() if one.until > now}
            mine = Reserved(created=self._created, images=images, bytes=size, until=now + LASTS)
            return book.model_copy(update={"batches": kept | {self._batch: mine}})

        self._serial = _amend(self._store, self._tenant, with_room)

    def look(self, quota: Quota, images: int, size: int) -> None:
        """Check whether :meth:`take` would succeed; errors as there."""
        self._check(reservations(self._store, self._tenant)[0], quota, images, size)

    def end(self) -> None:
        """Give the room back; a batch that exists is counted itself."""

        def without(book: Reservations) -> Reservations | None:
            kept = {name: one for name, one in book.batches.items() if name != self._batch}
            return None if kept == book.batches else book.model_copy(update={"batches": kept})

        _amend(self._store, self._tenant, without)

    def _check(self, book: Reservations, quota: Quota, images: int, size: int) -> None:
        if self._others is not None and self._serial == book.serial:
            with suppress(QuotaSpent):  # a batch may have closed since
                return self._fit(self._others, quota, images, size)
        self._others = with_reserved(self._store, self._tenant, self._created, book, but=self._batch)
        return self._fit(self._others, quota, images, size)

    def _fit(self, others: Had, quota: Quota, images: int, size: int) -> None:
        limits = (
            (quota.open_images, others.open_images, images, "open images"),
            (quota.images_a_month, others.images, images, f"images in {others.month}"),
            (quota.bytes_a_month, others.bytes, size, f"bytes in {others.month}"),
        )
        for most, has, more, what in limits:
            if most is not None and has + more > most:
                left = [max(0, most - has) for most, has, *_ in limits[:2] if most is not None]
                room = None if quota.bytes_a_month is None else max(0, quota.bytes_a_month - others.bytes)
                raise QuotaSpent(
                    f"the quota of tenant {self._tenant!r} is {most:,} {what}: it has {has:,}, and these are "
                    f"{more:,} or more",
                    min(left, default=None),
                    room,
                )


@contextmanager
def within(store: ObjectStore, tenant: Tenant | None, batch: str) -> Iterator[Callable[[PlanRecord], None]]:
    """For the time of planning: a check that refuses a plan beyond the quota, called for each part and the whole.

    Args:
        store: Where the batches are.
        tenant: Whose plan; without a tenant, or without a quota, anything is allowed.
        batch: The batch being planned.
    """
    if tenant is None or tenant.quota == Quota():
        yield lambda plan: None
        return
    quota, made = tenant.quota, list[Reservation]()

    def check(plan: PlanRecord) -> None:
        if not made:
            made.append(Reservation(store, tenant.name, batch, plan.created))
        try:
            made[0].take(quota, plan.images, plan.bytes)
        except QuotaSpent as spent:
            raise UsageError(f"{spent}; nothing was begun") from spent

    try:
        yield check
    finally:
        for one in made:
            with suppress(DermbatchError):  # it lapses then
                one.end()


def note_watching(store: ObjectStore, tenant: str, why: str | None) -> None:
    """Record that watch waits for a quota, and why; or, with none, that it does not.

    Raises:
        StoreUnavailable, StoreRefused: Where the store fails.
    """

    def noted(book: Reservations) -> Reservations | None:
        if why is None:
            return None if book.watching is None else book.model_copy(update={"watching": None})
        since = book.watching.since if book.watching is not None else datetime.now(UTC)
        return book.model_copy(update={"watching": Waiting(since=since, why=why)})

    _amend(store, tenant, noted)


def _amend(store: ObjectStore, tenant: str, change: Callable[[Reservations], Reservations | None]) -> int:
    """Replace the record by a changed one, or keep it if the change is none; returns its serial."""
    for _ in range(_TRIES):
        book, etag = reservations(store, tenant)
        changed = change(book)
        if changed is None:
            return book.serial
        body = changed.model_copy(update={"serial": book.serial + 1}).to_json()
        if store.put_if_match(layout.tenant_quota(tenant), body, JSON, etag) is not None:
            return book.serial + 1
        time.sleep(random.uniform(0, _PAUSE))  # noqa: S311 - so that two do not meet again
    raise StoreUnavailable(
        f"the reservations of tenant {tenant!r} are being changed by too many at once; trying again"
    )
