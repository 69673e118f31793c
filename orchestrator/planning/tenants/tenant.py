"""A tenant as an operator declares it, and what it may ask for: `docs/tenants.md` explains the fields."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import combinations
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr, field_validator

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.records.asked import Lane, Order
from dermbatch.settings import Settings
from dermbatch.stages import Stage
from dermbatch.store import split_uri
from orchestrator.planning.documents import read_model
from orchestrator.planning.tenants.folders import Folder

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")


def _name(name: str) -> str:
    if _NAME.fullmatch(name) is None or name.startswith(layout.WATCHED):
        raise ValueError(
            "take 1 to 40 of a-z, 0-9 and '-', starting and ending with a letter or digit, "
            f"and not starting with {layout.WATCHED}"
        )
    return name


TenantName = Annotated[StrictStr, AfterValidator(_name)]


class Quota(BaseModel):
    """The most that a tenant may have; none: unlimited."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    open_images: StrictInt | None = Field(default=None, ge=0, description="most images of its open batches")
    images_a_month: StrictInt | None = Field(
        default=None, ge=0, description="most images of batches asked for in a month, UTC"
    )
    bytes_a_month: StrictInt | None = Field(default=None, ge=0, description="most bytes of these images' files")


class Objectives(BaseModel):
    """What a tenant is promised; none: nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    live_p95_seconds: float | None = Field(
        default=None, gt=0, description="seconds that 95 of 100 of its live images may wait for a worker at most"
    )
    deadlines_met: float | None = Field(
        default=None, gt=0, le=1, description="share of its batches with a deadline that should keep it"
    )


class Tenant(BaseModel):
    """Who owns batches, and what they may contain."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: TenantName
    prefixes: tuple[Folder, ...] = Field(
        default=(), description="prefixes whose images belong to it, and to no other tenant"
    )
    outputs: tuple[Folder, ...] = Field(default=(), description="prefixes to which its results may be copied")
    models: dict[Stage, tuple[StrictStr, ...]] = Field(
        default={}, description="models that it may use, as NAME or NAME@VERSION, for the stages that are named"
    )
    send_to: tuple[StrictStr, ...] = Field(
        default=(), description="PACS to which it may send, by their names in the settings"
    )
    lanes: tuple[Lane, ...] = Field(default=("live", "bulk"), min_length=1)
    weight: StrictInt = Field(default=100, ge=1, le=100, description="largest weight of its batches")
    shares: TenantName | None = Field(default=None, description="the tenant whose known results it shares")
    quota: Quota = Quota()
    objectives: Objectives = Objectives()

    def owns(self, uri: str) -> bool:
        """Whether an object or prefix lies below one of its prefixes."""
        try:
            bucket, key = split_uri(uri)
        except ValueError:
            return False
        return f"s3://{bucket}/{key}".startswith(self.prefixes)

    def check_inputs(self, inputs: Iterable[str]) -> None:
        """Refuse prefixes that are not its own; only ``s3://`` inputs are checked.

        Raises:
            UsageError: In one sentence.
        """
        for given in inputs:
            if given.startswith("s3://") and not self.owns(given):
                own = ", ".join(self.prefixes) or "none"
                raise UsageError(f"{given} is not below a prefix of tenant {self.name!r} (it has: {own})")

    def admitted(self, order: Order) -> Order:
        """The order, completed by whose known results it shares.

        Raises:
            UsageError: If it asks for what the tenant may not have; in one sentence.
        """
        for stage, choice in order.models.items():
            names = {choice.name, str(choice)}
            if stage in self.models and not names & set(self.models[stage]):
                may = ", ".join(self.models[stage]) or "none"
                raise UsageError(f"tenant {self.name!r} may not use {choice.name} for {stage} (it may use: {may})")
        if order.support is not None and not layout.is_owned(order.support.name, self.name):
            raise UsageError(f"support {order.support.name} does not belong to tenant {self.name!r}")
        self.check_priority(order.lane, order.weight)
        if order.send_to is not None:
            self.check_destination(order.send_to)
        if order.output is not None and not f"{order.output.rstrip('/')}/".startswith(self.outputs):
            own = ", ".join(self.outputs) or "none"
            raise UsageError(f"{order.output} is not below an output of tenant {self.name!r} (it has: {own})")
        promised = self.objectives.live_p95_seconds if order.lane == "live" else None
        return order.model_copy(update={"shares": self.shares, "wait_objective": promised})

    def check_destination(self, pacs: str) -> None:
        """Refuse a PACS that results may not be sent to, whether it exists or not.

        Raises:
            UsageError: In one sentence.
        """
        if pacs not in self.send_to:
            raise UsageError(f"tenant {self.name!r} may not send to {pacs!r}")

    def check_priority(self, lane: Lane | None, weight: int | None) -> None:
        """Refuse a lane or a weight that it may not have; none is not checked.

        Raises:
            UsageError: In one sentence.
        """
        if lane is not None and lane not in self.lanes:
            raise UsageError(f"tenant {self.name!r} has no lane {lane} (it has: {', '.join(self.lanes)})")
        if weight is not None and weight > self.weight:
            raise UsageError(f"tenant {self.name!r} may have a weight of {self.weight} at most")


class Tenants(BaseModel):
    """All tenants of a system."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenants: tuple[Tenant, ...] = Field(min_length=1)

    @field_validator("tenants")
    @classmethod
    def _apart(cls, tenants: tuple[Tenant, ...]) -> tuple[Tenant, ...]:
        names = [one.name for one in tenants]
        for one, other in combinations(tenants, 2):
            if one.name == other.name:
                raise ValueError(f"there are two tenants {one.name!r}")
            for mine, theirs in ((a, b) for a in one.prefixes for b in other.prefixes):
                if mine.startswith(theirs) or theirs.startswith(mine):
                    raise ValueError(
                        f"{one.name!r} and {other.name!r} both claim what is below {max(mine, theirs)}"
                    )
        if unknown := [one.shares for one in tenants if one.shares not in {None, "default", *names}]:
            raise ValueError(f"shares: there is no tenant {unknown[0]!r}")
        return tenants

    def named(self, name: str) -> Tenant:
        """One of them.

        Raises:
            UsageError: If there is none of this name.
        """
        found = next((one for one in self.tenants if one.name == name), None)
        if found is None:
            raise UsageError(f"there is no tenant {name!r}")
        return found

    def check_apart(self, own: Iterable[str]) -> None:
        """Refuse prefixes and outputs in the system's own buckets, where all results lie.

        Raises:
            UsageError: For the first one.
        """
        for one in self.tenants:
            for uri in (*one.prefixes, *one.outputs):
                if split_uri(uri)[0] in set(own):
                    raise UsageError(
                        f"tenant {one.name!r}: {uri} lies in one of the system's own buckets; choose another"
                    )


def load_tenants(settings: Settings) -> Tenants | None:
    """The tenants of the settings' file, as it is now; none if no file is set.

    Raises:
        UsageError: If the file cannot be read or is invalid; in one sentence.
    """
    if settings.tenants.file is None:
        return None
    found = read_model(settings.tenants.file, Tenants, "the file of tenants")
    found.check_apart([settings.store.bucket, settings.store.incoming_bucket])
    return found


def tenant_of(settings: Settings, name: str) -> Tenant | None:
    """A tenant; none if tenants are not declared, so that any name is one.

    Raises:
        UsageError: As for :func:`load_tenants`, and if it is not declared.
    """
    declared = load_tenants(settings)
    return None if declared is None else declared.named(name)
