"""How much of its quota a tenant uses: added up from the records of its batches, whose names begin with its own.

What is being planned is no batch yet: its room is reserved in one record a tenant, which
:mod:`orchestrator.planning.tenants.reservation` writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import AwareDatetime, Field

from dermbatch import layout
from dermbatch.errors import NewerFormat, ObjectNotFound, PermanentError
from dermbatch.records.asked import Batch, Record, Stored
from dermbatch.store import ObjectStore
from dermbatch.stored import parsed
from orchestrator.batches.entries import read_batch
from orchestrator.batches.outcomes import in_order

_AT_A_TIME = 16


class Reserved(Record):
    """Room for a batch that is planned, or that grows."""

    created: AwareDatetime = Field(description="time when the batch was asked for; it counts in that month")
    images: int = Field(ge=0, description="total, including those that the batch already has")
    bytes: int = Field(ge=0)
    until: AwareDatetime = Field(
        description="a reservation not renewed by then no longer counts: its planner is dead"
    )


class Waiting(Record):
    """Watch takes in nothing for the tenant until its quota allows it."""

    since: AwareDatetime
    why: str


class Reservations(Stored):
    """What is reserved of a tenant's quota; ``tenants/<tenant>/quota.json``.

    Attributes:
        serial: Number of this version, so that no two have the same content and ETags tell them apart.
        batches: By name of the batch.
        watching: Why watch waits; none if it does not.
    """

    serial: int = 0
    batches: dict[str, Reserved] = Field(default_factory=dict)
    watching: Waiting | None = None


@dataclass(frozen=True)
class Had:
    """How much a tenant has.

    Attributes:
        open_batches: Not closed.
        open_images: Images of these, and of what is being planned.
        month: As 2026-03, UTC.
        images: Images of batches that were asked for in that month, and of what is being planned.
        bytes: Bytes of these images' files, as far as planning knew them.
        watching: Why watch waits; none if it does not.
    """

    open_batches: tuple[str, ...]
    open_images: int
    month: str
    images: int
    bytes: int
    watching: str | None = None


def had(store: ObjectStore, tenant: str, now: datetime) -> Had:
    """Add up all batches of a tenant, and what is reserved.

    Raises:
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    return with_reserved(store, tenant, now, reservations(store, tenant)[0])


def reservations(store: ObjectStore, tenant: str) -> tuple[Reservations, str | None]:
    """What is reserved, and the ETag of its record; none if there is none. A damaged record counts as empty."""
    try:
        body, etag = store.read(store.bucket, layout.tenant_quota(tenant))
    except ObjectNotFound:
        return Reservations(), None
    try:
        return parsed(body, Reservations, "the reservations are damaged"), etag
    except PermanentError:
        return Reservations(), etag


def with_reserved(store: ObjectStore, tenant: str, now: datetime, book: Reservations, but: str = "") -> Had:
    """What a tenant has, given these reservations.

    A plan ends its reservation once it is a batch. So ``book`` must be read before this looks at the batches: what
    has left it is among them.

    Args:
        store: Where the batches are.
        tenant: Whose.
        now: In the month that is counted.
        book: What is reserved.
        but: A batch that is left out.
    """
    opened = set(open_batches(store, tenant))
    month = _month(now)
    open_images = images = size = 0
    left = {name: one for name, one in book.batches.items() if one.until > datetime.now(UTC) and name != but}
    for batch in batches_of(store, tenant):
        if batch.name == but:
            continue
        room = left.pop(batch.name, None)
        batch_images, batch_bytes = batch.images, batch.bytes
        if room is not None and room.created == batch.created:
            batch_images, batch_bytes = max(batch_images, room.images), max(batch_bytes, room.bytes)
        open_images += batch_images if batch.name in opened else 0
        if _month(batch.created) == month:
            images, size = images + batch_images, size + batch_bytes
    for room in left.values():
        open_images += room.images
        if _month(room.created) == month:
            images, size = images + room.images, size + room.bytes
    waits = book.watching.why if book.watching is not None else None
    return Had(tuple(sorted(opened)), open_images, month, images, size, waits)


def _month(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m}"


def open_batches(store: ObjectStore, tenant: str) -> Iterator[str]:
    """The names of a tenant's batches that are not closed, including those being planned."""
    for begins in layout.owned_batches(tenant):
        for info in store.list(store.bucket, f"{layout.OPEN}{begins}"):
            yield info.key.removeprefix(layout.OPEN).removesuffix(".json")


def orphans(store: ObjectStore, declared: Iterable[str]) -> dict[str, list[str]]:
    """Batches that are not closed, by tenant, of tenants that are no longer declared.

    Args:
        store: Where they are.
        declared: The declared tenants.
    """
    known, found = set(declared), dict[str, list[str]]()
    infos = store.list(store.bucket, layout.OPEN)
    names = (info.key.removeprefix(layout.OPEN).removesuffix(".json") for info in infos)
    for batch in in_order(lambda name: _record(store, name), names, _AT_A_TIME):
        if batch is not None and batch.order.tenant not in known:
            found.setdefault(batch.order.tenant, []).append(batch.name)
    return found


def batches_of(store: ObjectStore, tenant: str) -> Iterator[Batch]:
    """A tenant's batches that exist, open or closed."""
    names = (
        f"{begins}{rest}"
        for begins in layout.owned_batches(tenant)
        for rest in store.folders(store.bucket, f"{layout.BATCHES}{begins}")
    )
    yield from filter(None, in_order(lambda name: _record(store, name), names, _AT_A_TIME))


def _record(store: ObjectStore, name: str) -> Batch | None:
    """The record of a batch; none while it is being planned, or if it cannot be read."""
    try:
        return read_batch(store, name)
    except (PermanentError, NewerFormat):
        return None
