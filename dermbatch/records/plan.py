"""A plan: inputs on their way to become a batch."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from dermbatch.records.batch import Asked
from dermbatch.records.record import Record


class Position(Record):
    """Where a walk through inputs stands: what was taken, to be gone on from."""

    input: int = Field(default=0, description="number of the input, from 0")
    after: str | None = Field(default=None, description="the last item of it (file or object) that was taken")
    taken: int = Field(default=0, description="members taken of that item, an archive; 0: it was taken whole")


class Filters(Record):
    """Which files or objects of folders and prefixes are meant; patterns are shell globs on the path below it."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    since: datetime | None = Field(default=None, description="last modified then or later")
    until: datetime | None = Field(default=None, description="last modified before")


class PlanRecord(Asked):
    """A plan that is being made; ``plan.json``, written after every part, so that a killed planner goes on."""

    inputs: tuple[str, ...]
    filters: Filters = Filters()
    position: Position = Position()
    images: int = 0
    skipped: int = 0
    left_out: int = 0
    duplicates: int = 0
