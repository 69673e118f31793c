"""A rule: what becomes of the objects below one prefix. ``docs/watch.md`` explains the fields for users."""

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
from dermbatch.records.asked import Filters, Lane, ModelChoice, Order
from dermbatch.settings import Settings
from dermbatch.stages import ORDER, Stage, closure
from dermbatch.store import split_uri

LONGEST_NAME = 75
"""Batches are called ``watch-<rule>-20261121-14``, maybe with a number behind, of at most 100 characters."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_MODEL = re.compile(r"(?P<name>[^@\s]+)(?:@(?P<version>[0-9]+))?")


def _name(name: str) -> str:
    if len(name) > LONGEST_NAME:
        raise ValueError(f"has more than {LONGEST_NAME} characters")
    try:
        return layout.check_batch_name(name, "rule")
    except UsageError as error:
        raise ValueError(str(error)) from error


def folder(uri: str) -> str:
    """``s3://bucket/`` or ``s3://bucket/folder/``: so ``clinic-1`` does not take what is of ``clinic-10``.

    Raises:
        ValueError: If it is no such URI, or a pattern.
    """
    bucket, key = split_uri(uri)
    if _BUCKET.fullmatch(bucket) is None:
        raise ValueError(f"{bucket!r} is no bucket's name")
    if any(character in key for character in "*?\r\n"):
        raise ValueError(f"{uri!r} is no plain prefix; patterns go into include and exclude")
    return f"s3://{bucket}/{key}{'/' if key and not key.endswith('/') else ''}"


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


def _stages(wanted: tuple[Stage, ...]) -> tuple[Stage, ...]:
    return closure(frozenset(wanted))


def _marker(name: str) -> str:
    if not name or "/" in name:
        raise ValueError(f"{name!r} is no object's name without its folder")
    return name


Folder = Annotated[StrictStr, AfterValidator(folder)]
Pattern = Annotated[StrictStr, AfterValidator(_pattern)]


class Rule(BaseModel):
    """What becomes of the objects below one prefix."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[StrictStr, AfterValidator(_name)] = Field(
        description="unique in its file; part of batch names"
    )
    prefix: Folder = Field(description="s3://bucket/folder/, always with the slash at its end")
    include: tuple[Pattern, ...] = Field(
        default=(), description="globs for the path below the prefix; one matches"
    )
    exclude: tuple[Pattern, ...] = Field(default=(), description="none of these matches")
    lane: Lane = "live"
    weight: StrictInt = Field(default=1, ge=1, le=100)
    batches: Literal["hourly", "daily"] = Field(default="daily", description="how long a batch takes images in")
    stages: Annotated[tuple[Stage, ...], Field(min_length=1), AfterValidator(_stages)] = ORDER
    models: dict[Stage, Annotated[ModelChoice, BeforeValidator(_model)]] = Field(
        default={}, description="of the stages that differ from the settings"
    )
    max_failed_share: StrictFloat | None = Field(default=None, gt=0, le=1)
    dicom: StrictBool = Field(default=False, description="whether DICOM objects are written beside the results")
    send_to: Annotated[StrictStr, Field(min_length=1)] | None = Field(
        default=None,
        description="the PACS of the settings that DICOM objects are sent to; they are written then, too",
    )
    output: Folder | None = Field(default=None, description="s3://bucket/folder/ that results are copied to")
    deidentify: StrictStr | None = Field(default=None, description="name of a profile of the file")
    marker: Annotated[StrictStr, AfterValidator(_marker)] | None = Field(
        default=None, description="objects wait until one of this name lies in their folder or one above it"
    )
    settle: StrictFloat = Field(
        default=0, ge=0, le=7 * 86400, description="seconds that an object must have been unchanged"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Rule:
        if left_out := [stage for stage in self.models if stage not in self.stages]:
            raise ValueError(f"models: {left_out[0]} has a model, but is not among the stages")
        return self

    @property
    def filters(self) -> Filters:
        """Its patterns, as an intake takes them."""
        return Filters(include=self.include, exclude=self.exclude)

    def order(self, settings: Settings) -> Order:
        """What it has done with its objects: its fields that an order has, with models of the settings."""
        fields = {field: getattr(self, field) for field in Order.model_fields if field in type(self).model_fields}
        models = {stage: self.models.get(stage, settings.models[stage]) for stage in self.stages}
        return Order(**fields | {"models": models})

    def below(self, bucket: str, key: str) -> str | None:
        """The path of an object below the prefix; none where it does not lie there."""
        uri = f"s3://{bucket}/{key}"
        return uri.removeprefix(self.prefix) if uri.startswith(self.prefix) else None

    def is_marker(self, bucket: str, key: str) -> bool:
        """Whether an object is the marker that others of this rule wait for."""
        below = self.below(bucket, key)
        return below is not None and self.marker is not None and below.rpartition("/")[2] == self.marker

    def takes_all_of(self, later: Rule) -> bool:
        """Whether nothing is left to a later rule; told from equal patterns, not from what patterns mean."""
        if not later.prefix.startswith(self.prefix):
            return False
        same = later.prefix == self.prefix
        included = (
            not self.include
            or "*" in self.include
            or (same and later.include and set(later.include) <= set(self.include))
        )
        return bool(included) and (not self.exclude or (same and set(self.exclude) <= set(later.exclude)))
