"""Bills: what was used, by tenant, month and price list, and what it costs.

A line's amount is its quantity times its price, rounded once, half to even; a total is the sum of its lines. So a
bill does not depend on the order in which its events are added.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal

from orchestrator.metering.events import UsageManifest
from orchestrator.metering.prices import PriceList, Prices
from orchestrator.metering.used import UNITS, Used

CENT = Decimal("0.01")
_EXACT = Context(prec=60)

Days = Mapping[tuple[str, str], Used]
"""What was used, by tenant and day (ISO 8601, UTC)."""


@dataclass(frozen=True)
class BillLine:
    """A line of a bill.

    Attributes:
        tenant: Whose.
        month: As 2026-03.
        prices: Name of the price list; none if none is valid.
        item: What was used, by its name in :data:`UNITS`.
        quantity: How much, exactly.
        price: Price of one unit; none if it has none.
        amount: In whole cents.
    """

    tenant: str
    month: str
    prices: str | None
    item: str
    quantity: Decimal
    price: Decimal | None
    amount: Decimal | None


@dataclass(frozen=True)
class Costs:
    """What one batch costs.

    Attributes:
        lines: Lines of its bill.
        currency: Currency; empty without price lists.
        images: Images with a result.
        unpriced: Whether there are days without a valid price list.
    """

    lines: tuple[BillLine, ...] = ()
    currency: str = ""
    images: int = 0
    unpriced: bool = False

    @classmethod
    def of(cls, usage: UsageManifest, prices: Prices | None) -> Costs:
        """The costs of a batch that closes."""
        days = {(usage.tenant, day): Used(used) for day, used in usage.days.items()}
        missing = prices is not None and bool(unpriced(days, prices))
        return cls(tuple(bill(days, prices)), prices.currency if prices else "", usage.events, missing)

    @property
    def total(self) -> Decimal:
        """The sum of the lines."""
        return total(self.lines)

    def an_image(self, number: Decimal) -> Decimal:
        """A number divided by the images, to six digits."""
        return Context(prec=6).divide(number, Decimal(max(1, self.images)))


def bill(days: Days, prices: Prices | None) -> list[BillLine]:
    """The lines for what was used, ordered by tenant, month, price list and item."""
    sums: defaultdict[tuple[str, str, date, str], Used] = defaultdict(Used)
    lists: dict[tuple[str, date, str], PriceList | None] = {}
    for (tenant, day), used in days.items():
        found = prices.of(tenant, date.fromisoformat(day)) if prices is not None else None
        by = (found.first, found.name) if found else (date.min, "")
        lists[tenant, *by] = found  # a tenant's own list may have the same name as the general one
        sums[tenant, day[:7], *by].update(used)
    return [
        _line(tenant, month, lists[tenant, first, name], item, used[item])
        for (tenant, month, first, name), used in sorted(sums.items(), key=lambda pair: pair[0])
        for item in UNITS
        if used[item]
    ]


def _line(tenant: str, month: str, prices: PriceList | None, item: str, parts: int) -> BillLine:
    quantity = _EXACT.divide(Decimal(parts), Decimal(UNITS[item]))
    price = prices.prices.get(item) if prices is not None else None
    amount = None
    if price is not None:
        amount = _EXACT.multiply(quantity, price).quantize(CENT, ROUND_HALF_EVEN, _EXACT)
    return BillLine(tenant, month, prices.name if prices else None, item, quantity, price, amount)


def total(lines: Iterable[BillLine]) -> Decimal:
    """The sum of the lines that have an amount."""
    return sum((line.amount for line in lines if line.amount is not None), Decimal("0.00"))


def unpriced(days: Days, prices: Prices) -> list[tuple[str, str]]:
    """Tenants and days for which no price list is valid."""
    return sorted(key for key in days if prices.of(key[0], date.fromisoformat(key[1])) is None)
