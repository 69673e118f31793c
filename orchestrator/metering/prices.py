"""Price lists: what a tenant pays from one day to another, in one YAML file."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dermbatch.records.asked import Name
from orchestrator.metering.used import UNITS
from orchestrator.planning.documents import read_model

Price = Annotated[Decimal, Field(ge=0, allow_inf_nan=False, max_digits=20)]


class PriceList(BaseModel):
    """What is paid for what, for a while."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, coerce_numbers_to_str=True, description="a year is a number in YAML")
    first: date = Field(alias="from", description="the first day, UTC, on which it is valid")
    until: date | None = Field(
        default=None, description="the first day on which it is no longer valid; none: open-ended"
    )
    tenant: Name | None = Field(
        default=None, description="the tenant; without one, it is for all that have no list of their own"
    )
    prices: dict[str, Price] = Field(description="price of one unit, by the names of what is counted")

    @field_validator("prices")
    @classmethod
    def _of_what_is_counted(cls, prices: dict[str, Decimal]) -> dict[str, Decimal]:
        if unknown := sorted(prices.keys() - UNITS.keys()):
            raise ValueError(f"there is no item {', '.join(unknown)}; there are {', '.join(UNITS)}")
        return prices

    @model_validator(mode="after")
    def _some_time(self) -> Self:
        if self.until is not None and self.until <= self.first:
            raise ValueError(f"{self.name!r} ends before it begins")
        return self

    def is_valid(self, day: date) -> bool:
        """Whether it is valid on this day."""
        return self.first <= day and (self.until is None or day < self.until)

    def overlaps(self, other: PriceList) -> bool:
        """Whether both set the prices of the same tenant for the same day."""
        begins = self.until is None or other.first < self.until
        return self.tenant == other.tenant and begins and (other.until is None or self.first < other.until)


class Prices(BaseModel):
    """All price lists."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: str = Field(pattern=r"^[A-Z]{3}$", description="ISO 4217")
    lists: tuple[PriceList, ...]

    @field_validator("lists")
    @classmethod
    def _one_a_day(cls, lists: tuple[PriceList, ...]) -> tuple[PriceList, ...]:
        for one, other in combinations(lists, 2):
            if one.overlaps(other):
                day = max(one.first, other.first)
                raise ValueError(
                    f"{one.name!r} and {other.name!r} both say what is paid on {day}: end one of them"
                )
        return lists

    def of(self, tenant: str, day: date) -> PriceList | None:
        """The list by which a tenant pays on a day: its own, else the general one; none if there is neither."""
        valid = [one for one in self.lists if one.tenant in {tenant, None} and one.is_valid(day)]
        return next((one for one in valid if one.tenant == tenant), next(iter(valid), None))


def load_prices(path: Path) -> Prices:
    """The price lists of a YAML file.

    Raises:
        UsageError: If the file cannot be read or has no such lists, or two of them overlap; in one sentence.
    """
    return read_model(path, Prices, "the price lists", are="are")
