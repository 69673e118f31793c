"""Canaries: what is tried beside the results, and how far it agrees with them."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from dermbatch.records.order import ModelChoice
from dermbatch.records.record import Record, Stored
from dermbatch.records.stage import ModelUsed
from dermbatch.stages import Stage


class Canary(Stored):
    """New models that a share of live images is also run with; ``canaries/<name>/canary.json``."""

    name: str
    models: dict[Stage, ModelChoice] = Field(description="the stages that differ")
    share: float = Field(gt=0, le=1, description="of live images")
    created: datetime
    stopped: datetime | None = None


class CanaryRecord(Stored):
    """How old and new models agree on one image; ``canaries/<name>/results/<batch>/<index>.json``."""

    canary: str
    batch: str
    index: int
    name: str
    models: dict[Stage, ModelUsed]
    dice: float | None = Field(default=None, description="of the two masks, 0 to 1; 1 where both are empty")
    old_label: str | None = None
    new_label: str | None = None
    probability_change: float | None = Field(default=None, description="largest of all classes, 0 to 1")
    seconds: float = Field(description="time of the new models' run")
    failure: str | None = Field(default=None, description="reason code, where the new models failed")


class Shadow(Record):
    """Other models that an image is also run with, after its result is written and without touching it."""

    canary: str
    models: dict[Stage, ModelChoice] = Field(description="of all stages; those that differ are what is tried")
