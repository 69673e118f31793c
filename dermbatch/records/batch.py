"""A batch: what was asked, how it is run, what became of it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from dermbatch.records.order import Lane, Order, embedded
from dermbatch.records.record import Stored
from dermbatch.stages import Stage


class Asked(Stored):
    """What was asked, under which name, however far it has come."""

    name: str
    created: datetime
    order: Order
    software: str

    _upgraded = model_validator(mode="before")(embedded)


class Batch(Asked):
    """What was asked; ``batch.json``. Written last of a plan, so its presence says that the manifest is whole."""

    images: int
    skipped: int = Field(default=0, description="files passed over because they are no images")
    left_out: int = Field(default=0, description="files that the user's filters leave out")
    duplicates: int = Field(default=0, description="images whose content an earlier one of the batch has")
    rule: str | None = Field(default=None, description="of watching, by which it takes or took images in")
    growing: bool = Field(default=False, description="whether it takes images in: images is how many so far")
    until: datetime | None = Field(default=None, description="when it takes in no more")


class BatchControl(Stored):
    """How an open batch is to be run; ``open/<batch>.json``, there while it is planned and until it closes."""

    lane: Lane = "bulk"
    weight: int = Field(default=1, ge=1, le=100)
    state: Literal["open", "paused", "cancelled"] = "open"
    why: str = Field(default="", description="why it is paused or cancelled, for people")
    tolerant: bool = Field(default=False, description="resumed after too many failures: not paused for them again")

    @classmethod
    def of(cls, order: Order) -> Self:
        """As it was asked."""
        return cls(lane=order.lane, weight=order.weight)


class BatchSummary(Stored):
    """What became of a batch; ``summary.json``, written when it closes, after report and table."""

    name: str
    state: Literal["finished", "cancelled"] = "finished"
    images: int
    done: int
    failed: int
    reasons: dict[str, int] = Field(description="failures by reason")
    without_dicom: int = Field(default=0, description="results without DICOM objects, where they were asked for")
    created: datetime
    closed: datetime
    first_started: datetime | None = Field(default=None, description="when the first result's attempt began")
    last_finished: datetime | None = Field(default=None, description="when the last result was there")
    stage_seconds: dict[Stage, float] = Field(description="mean seconds of a stage, where it was run")
    stage_runs: dict[Stage, int] = Field(description="how often a stage was run, not taken from the cache")
    image_seconds: float = Field(
        description="mean seconds that an image took a worker slot, where stages were run"
    )
    slots: int = Field(description="worker slots heard of at the end")
    software: str
