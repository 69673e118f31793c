"""What a tenant has of its quota: told from the records of its batches, whose names begin with its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from dermbatch import layout
from dermbatch.errors import NewerFormat, PermanentError, UsageError
from dermbatch.records.asked import Batch, PlanRecord
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import read_batch
from orchestrator.batches.outcomes import in_order
from orchestrator.planning.tenants.tenant import Tenant

_AT_A_TIME = 16


@dataclass(frozen=True)
class Had:
    """What a tenant has by now.

    Attributes:
        open_batches: Not closed.
        open_images: Of these.
        month: As 2026-03, UTC.
        images: Of batches that were asked for in it.
        bytes: Of these images' files, as far as planning knew them.
    """

    open_batches: tuple[str, ...]
    open_images: int
    month: str
    images: int
    bytes: int


def had(store: ObjectStore, tenant: str, now: datetime) -> Had:
    """Look at all batches of a tenant.

    Raises:
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    opened = set(open_batches(store, tenant))
    month = f"{now.astimezone(UTC):%Y-%m}"
    open_images = images = size = 0
    for batch in batches_of(store, tenant):
        open_images += batch.images if batch.name in opened else 0
        if f"{batch.created.astimezone(UTC):%Y-%m}" == month:
            images, size = images + batch.images, size + batch.bytes
    return Had(tuple(sorted(opened)), open_images, month, images, size)


def open_batches(store: ObjectStore, tenant: str) -> Iterator[str]:
    """The names of a tenant's batches that are not closed, those that are planned among them."""
    for begins in layout.owned_batches(tenant):
        for info in store.list(store.bucket, f"{layout.OPEN}{begins}"):
            yield info.key.removeprefix(layout.OPEN).removesuffix(".json")


def orphans(store: ObjectStore, declared: Iterable[str]) -> dict[str, list[str]]:
    """Batches that are not closed, of tenants that are declared no more, by tenant.

    Args:
        store: Where they are.
        declared: The tenants that are.
    """
    known, found = set(declared), dict[str, list[str]]()
    infos = store.list(store.bucket, layout.OPEN)
    names = (info.key.removeprefix(layout.OPEN).removesuffix(".json") for info in infos)
    for batch in in_order(lambda name: _record(store, name), names, _AT_A_TIME):
        if batch is not None and batch.order.tenant not in known:
            found.setdefault(batch.order.tenant, []).append(batch.name)
    return found


def within(store: ObjectStore, tenant: Tenant, now: datetime) -> Callable[[PlanRecord], None]:
    """What refuses a plan that goes beyond a tenant's quota; told of each part, and once more of the whole.

    What was had is looked at once: of two plans at the same moment, neither counts the other.
    """
    quota = tenant.quota
    if quota == type(quota)():
        return lambda plan: None
    before = had(store, tenant.name, now)

    def check(plan: PlanRecord) -> None:
        for most, has, more, what in (
            (quota.open_images, before.open_images, plan.images, "open images"),
            (quota.images_a_month, before.images, plan.images, f"images in {before.month}"),
            (quota.bytes_a_month, before.bytes, plan.bytes, f"bytes in {before.month}"),
        ):
            if most is not None and has + more > most:
                raise UsageError(
                    f"the quota of tenant {tenant.name!r} is {most:,} {what}: it has {has:,}, and these are "
                    f"{more:,} or more; nothing was begun"
                )

    return check


def batches_of(store: ObjectStore, tenant: str) -> Iterator[Batch]:
    """A tenant's batches that are planned: open and closed ones."""
    names = (
        f"{begins}{rest}"
        for begins in layout.owned_batches(tenant)
        for rest in store.folders(store.bucket, f"{layout.BATCHES}{begins}")
    )
    yield from filter(None, in_order(lambda name: _record(store, name), names, _AT_A_TIME))


def _record(store: ObjectStore, name: str) -> Batch | None:
    """The record of a batch; none while it is planned, and where it cannot be read."""
    try:
        return read_batch(store, name)
    except (PermanentError, NewerFormat):
        return None
