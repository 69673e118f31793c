"""The stages, their order, and what each is fed."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """A step of the pipeline; the value is its name in keys, records, options and metrics."""

    PURIFY = "purify"
    SEGMENT = "segment"
    ENHANCE = "enhance"
    CLASSIFY = "classify"


ORDER = tuple(Stage)
"""The order in which an image runs through the stages."""

FEEDS: dict[Stage, tuple[Stage, ...]] = {
    Stage.PURIFY: (),
    Stage.SEGMENT: (Stage.PURIFY,),
    Stage.ENHANCE: (Stage.PURIFY, Stage.SEGMENT),
    Stage.CLASSIFY: (Stage.PURIFY, Stage.SEGMENT),
}
"""The stages whose artifacts a stage uses. A purified image is used if there is one, else the original."""

REQUIRES: dict[Stage, tuple[Stage, ...]] = {
    Stage.PURIFY: (),
    Stage.SEGMENT: (),
    Stage.ENHANCE: (Stage.SEGMENT,),
    Stage.CLASSIFY: (Stage.SEGMENT,),
}
"""The stages without which a stage cannot run: the lesion mask is what enhancement and diagnosis work on."""


def closure(wanted: frozenset[Stage]) -> tuple[Stage, ...]:
    """The wanted stages and those they require, in running order."""
    needed = set(wanted)
    for stage in reversed(ORDER):
        if stage in needed:
            needed.update(REQUIRES[stage])
    return tuple(stage for stage in ORDER if stage in needed)
