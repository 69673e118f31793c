"""What all tenants used, as noted when batches closed: fast, for a page."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from dermbatch.errors import UsageError
from dermbatch.store import ObjectStore
from orchestrator.metering.bill import BillLine, bill, total, unpriced
from orchestrator.metering.prices import load_prices
from orchestrator.metering.reading import noted_at_closing, standing

_UNREADABLE = "the price lists cannot be read: ask whoever runs this system"  # what is wrong may concern others


@dataclass(frozen=True)
class UsageOverview:
    """Usage and costs.

    Attributes:
        lines: Lines of all bills, the newest month first.
        sums: Month, tenant and money; empty without price lists.
        currency: Empty likewise.
        open: Batches that are not counted yet.
        problems: Sentences.
    """

    lines: tuple[BillLine, ...]
    sums: tuple[tuple[str, str, Decimal], ...]
    currency: str
    open: int
    problems: tuple[str, ...]


def overview(store: ObjectStore, prices_file: Path | None, tenant: str | None = None) -> UsageOverview:
    """Usage and costs by month, tenant and item, of all tenants or one, with problems of lists and batches.

    Raises:
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    found, prices, problems = standing(store, tenant), None, []
    try:
        prices = load_prices(prices_file) if prices_file is not None else None
    except UsageError as error:
        problems.append(str(error) if tenant is None else _UNREADABLE)
    days = noted_at_closing(found.manifests)
    if prices is not None and (missing := unpriced(days, prices)):
        problems.append(f"no price list is valid for {len(missing)} days of a tenant")
    if uncounted := len(found.uncounted) + len(found.damaged):
        problems.append(f"{uncounted:,} batches have no usage that can be read; dermbatch usage names them")
    lines = sorted(bill(days, prices), key=lambda line: line.month, reverse=True)
    months = dict.fromkeys((line.month, line.tenant) for line in lines) if prices is not None else {}
    sums = tuple(
        (month, tenant, total(line for line in lines if (line.month, line.tenant) == (month, tenant)))
        for month, tenant in months
    )
    return UsageOverview(tuple(lines), sums, prices.currency if prices else "", found.open, tuple(problems))
