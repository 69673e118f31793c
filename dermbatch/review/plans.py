"""Stored review plans: written once, read in the order of their names."""

from __future__ import annotations

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, UsageError
from dermbatch.records.plan import ReviewPlan
from dermbatch.store import ObjectStore
from dermbatch.stored import read, write_once


def keep_plan(store: ObjectStore, plan: ReviewPlan) -> None:
    """Keep a plan.

    Raises:
        UsageError: If there is one with this name.
        StoreUnavailable, StoreRefused: Where trying again may help.
    """
    if not write_once(store, layout.review_plan(plan.name), plan):
        raise UsageError(f"there is a plan {plan.name!r} already; choose another name")


def plan_names(store: ObjectStore) -> list[str]:
    """The names of all plans, in order."""
    keys = (info.key for info in store.list(store.bucket, layout.REVIEW_PLANS))
    return [key.removeprefix(layout.REVIEW_PLANS).removesuffix(".json") for key in keys]


def plan_of(store: ObjectStore, name: str) -> ReviewPlan | None:
    """A plan; none if there is none with this name.

    Raises:
        UsageError: If nothing can have this name.
        RecordDamaged, NewerFormat: If what is there is not a plan that can be read here.
        StoreUnavailable, StoreRefused: Where trying again may help.
    """
    try:
        return read(store, layout.review_plan(layout.check_batch_name(name, "plan")), ReviewPlan)
    except ObjectNotFound:
        return None
