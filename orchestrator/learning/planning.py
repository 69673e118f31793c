"""Makes a plan of what is to be reviewed, from the images of closed batches, and stores it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from dermbatch.errors import UsageError
from dermbatch.records.plan import Planned, ReviewPlan, Strategy
from dermbatch.review.choosing import choose
from dermbatch.review.plans import keep_plan, plan_of
from dermbatch.store import ObjectStore
from orchestrator.learning.pool import pool


def make_plan(
    store: ObjectStore,
    name: str,
    strategy: Strategy,
    count: int,
    *,
    batches: Sequence[str] = (),
    tenant: str = "default",
    seed: int = 0,
) -> ReviewPlan:
    """Choose images, and store them as a plan.

    Args:
        store: Where batches and plans are.
        name: Name of the plan.
        strategy: By which they are chosen.
        count: How many; fewer where there are not so many.
        batches: Of these alone; of all closed ones of the tenant where none is named.
        tenant: Whose.
        seed: Seed of all random choices.

    Raises:
        UsageError: If there is a plan of this name, a batch cannot be chosen from, or nothing is left.
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    if plan_of(store, name) is not None:
        raise UsageError(f"there is a plan {name!r} already; choose another name")
    random = np.random.default_rng(seed)
    found = pool(store, batches, tenant, random)
    images = []
    for one in choose(found.candidates, strategy, count, random):
        batch, index, sha256 = found.images[one.number]
        images.append(Planned(batch=batch, index=index, sha256=sha256, reason=one.reason, score=one.score))
    plan = ReviewPlan(
        name=name,
        tenant=tenant,
        made=datetime.now(UTC),
        strategy=strategy,
        seed=seed,
        among=len(found.images),
        left_out=found.left_out,
        images=tuple(images),
    )
    keep_plan(store, plan)
    return plan
