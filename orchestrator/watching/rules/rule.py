"""A rule: what becomes of the objects below a prefix. ``docs/watch.md`` explains the fields for users."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.records.asked import Filters, Lane, ModelChoice, Name, Order
from dermbatch.settings import Settings
from dermbatch.stages import ORDER, Stage, closure
from orchestrator.planning.tenants.folders import Folder

LONGEST_NAME = 75
"""Batches are called ``watch-<rule>-20261121-14``, maybe with a number behind, of at most 100 characters."""

_MODEL = re.compile(r"(?P<name>[^@\s]+)(?:@(?P<version>[0-9]+))?")


def _name(name: str) -> str:
    if len(name) > LONGEST_NAME:
        raise ValueError(f"has more than {LONGEST_NAME} characters")
    try:
        return layout.check_batch_name(name, "rule")
    except UsageError as error:
        raise ValueError(str(error)) from error


def _pattern(pattern: str) -> str:
    if not pattern or pattern.startswith(("/", "s3://")):
        raise ValueError(f"{pattern!r} can match nothing: patterns are for the path below the prefix")
    return pattern


def _model(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _MODEL.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r}: write NAME or NAME@VERSION")
    return ModelChoice(name=match["name"], version=match["version"])


def _support(text: str) -> str:
    name, _, version = text.partition("@")
    try:
        layout.check_batch_name(name, "support")
    except UsageError as error:
        raise ValueError(str(error)) from error
    if "@" in text and not version.isdecimal():
        raise ValueError(f"{text!r}: write NAME or NAME@VERSION")
    return text


def _stages(wanted: tuple[Stage, ...]) -> tuple[Stage, ...]:
    return closure(frozenset(wanted))


def _marker(name: str) -> str:
    if not name or "/" in name:
        raise ValueError(f"{name!r} is not the name of an object without its folder")
    return name


Pattern = Annotated[StrictStr, AfterValidator(_pattern)]


class Rule(BaseModel):
    """What becomes of the objects below one prefix."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[StrictStr, AfterValidator(_name)] = Field(
        description="unique in its file; part of batch names"
    )
    prefix: Folder = Field(description="s3://bucket/folder/, always with the slash at its end")
    include: tuple[Pattern, ...] = Field(
        default=(), description="globs for the path below the prefix; at least one must match"
    )
    exclude: tuple[Pattern, ...] = Field(default=(), description="globs of which none may match")
    lane: Lane = "live"
    weight: StrictInt = Field(default=1, ge=1, le=100)
    batches: Literal["hourly", "daily"] = Field(
        default="daily", description="how long a batch takes images in before it is sealed"
    )
    stages: Annotated[tuple[Stage, ...], Field(min_length=1), AfterValidator(_stages)] = ORDER
    models: dict[Stage, Annotated[ModelChoice, BeforeValidator(_model)]] = Field(
        default={}, description="models of the stages that differ from the settings"
    )
    support: Annotated[StrictStr, AfterValidator(_support)] | None = Field(
        default=None, description="support that a one-shot segment model is shown, as NAME or NAME@VERSION"
    )
    max_failed_share: StrictFloat | None = Field(default=None, gt=0, le=1)
    dicom: StrictBool = Field(default=False, description="whether DICOM objects are written next to the results")
    send_to: Annotated[StrictStr, Field(min_length=1)] | None = Field(
        default=None,
        description="PACS to which DICOM objects are sent, by its name in the "
        "settings; then they are also written",
    )
    output: Folder | None = Field(default=None, description="s3://bucket/folder/ to which results are copied")
    deidentify: StrictStr | None = Field(default=None, description="name of a profile in the file")
    tenant: Name | None = Field(default=None, description="tenant of the batches; default if none is named")
    marker: Annotated[StrictStr, AfterValidator(_marker)] | None = Field(
        default=None, description="objects wait until an object with this name is in their folder or one above it"
    )
    settle: StrictFloat = Field(
        default=0, ge=0, le=7 * 86400, description="seconds that an object must have been unchanged"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Rule:
        if left_out := [stage for stage in self.models if stage not in self.stages]:
            raise ValueError(f"models: {left_out[0]} has a model, but is not among the stages")
        if len(self.batch) > len(layout.WATCHED) + LONGEST_NAME:
            raise ValueError(f"name and tenant have more than {LONGEST_NAME} characters together")
        return self

    @property
    def batch(self) -> str:
        """The prefix of the names of its batches."""
        return f"{layout.WATCHED}{self.name if self.tenant is None else f'{self.tenant}.{self.name}'}"

    @property
    def filters(self) -> Filters:
        """Its patterns, as an intake takes them."""
        return Filters(include=self.include, exclude=self.exclude)

    def order(self, settings: Settings) -> Order:
        """The order for its objects: its fields that an order has, completed by the models of the settings.

        Which version of a support that is depends on the store: :func:`orchestrator.planning.support.pinned`.
        """
        own = Order.model_fields.keys() & type(self).model_fields.keys() - {"support"}
        fields = {field: getattr(self, field) for field in own}
        fields |= {"tenant": self.tenant or "default"}
        models = {stage: self.models.get(stage, settings.models[stage]) for stage in self.stages}
        return Order(**fields | {"models": models})

    def below(self, bucket: str, key: str) -> str | None:
        """The path of an object below the prefix; none if it does not lie there."""
        uri = f"s3://{bucket}/{key}"
        return uri.removeprefix(self.prefix) if uri.startswith(self.prefix) else None

    def is_marker(self, bucket: str, key: str) -> bool:
        """Whether an object is the marker that others of this rule wait for."""
        below = self.below(bucket, key)
        return below is not None and self.marker is not None and below.rpartition("/")[2] == self.marker

    def takes_all_of(self, later: Rule) -> bool:
        """Whether nothing is left to a later rule; judged by equal patterns, not by what patterns mean."""
        if not later.prefix.startswith(self.prefix):
            return False
        same = later.prefix == self.prefix
        included = (
            not self.include
            or "*" in self.include
            or (same and later.include and set(later.include) <= set(self.include))
        )
        return bool(included) and (not self.exclude or (same and set(self.exclude) <= set(later.exclude)))
