"""Which fault comes when: a shuffled, seeded list, the same for every run with the same numbers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

Side = Literal["dermbatch", "stock Celery"]

# Shares of the SIGKILLs; each kind comes at least once.
KILLS: Mapping[str, float] = {
    "pool process": 0.58,
    "reading process": 0.12,
    "nursery": 0.04,
    "worker": 0.08,
    "orchestrator": 0.10,
    "Redis": 0.06,
    "Redis, data deleted": 0.02,
}
REAL_KILLS: Mapping[str, float] = {
    "pool process": 0.20,
    "reading process": 0.10,
    "nursery": 0.05,
    "worker": 0.15,
    "orchestrator": 0.20,
    "triton": 0.20,
    "Redis": 0.05,
    "Redis, data deleted": 0.05,
}
# What kills nothing, for every SIGKILL.
OTHERS: Mapping[str, float] = {
    "S3 errors": 0.05,
    "S3 slow": 0.03,
    "S3 cuts": 0.05,
    "Redis full": 0.025,
    "clock forward": 0.02,
    "clock back": 0.02,
}

# What stock Celery is spared, and what strikes it instead: it has no orchestrator, and nothing to build its queue
# again from, so a Redis without its data would lose all at once and tell nothing.
_INSTEAD = dict.fromkeys(("orchestrator", "reading process", "nursery"), "pool process") | {
    "Redis, data deleted": "Redis"
}
_SPARED = {"Redis full", "clock forward", "clock back"}


def schedule(kills: int, seed: int, *, real: bool = False, clocks: bool = True) -> list[str]:
    """Kinds of faults in the order in which they come.

    Args:
        kills: How many of them are SIGKILLs.
        seed: Of the order.
        real: With Triton and real models.
        clocks: Whether Redis's clock can be stepped.
    """
    counts = _counts(kills, REAL_KILLS if real else KILLS)
    others = {kind: max(1, round(share * kills)) for kind, share in OTHERS.items()}
    listed = [kind for kind, count in {**counts, **others}.items() for _ in range(count)]
    if not clocks:
        listed = [kind for kind in listed if not kind.startswith("clock")]
    random.Random(seed).shuffle(listed)
    return listed


def for_stock(listed: list[str]) -> list[str]:
    """The same list for stock Celery: as many SIGKILLs, without what would be no comparison."""
    return [_INSTEAD.get(kind, kind) for kind in listed if kind not in _SPARED]


def _counts(kills: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers with this sum, at least one of each kind where there are enough, the rest to the first."""
    counts = {kind: max(1, round(share * kills)) for kind, share in shares.items()}
    first, *rest = counts
    for kind in reversed(rest):
        if sum(counts.values()) > kills:
            counts[kind] = max(0, counts[kind] - (sum(counts.values()) - kills))
    counts[first] = max(0, kills - sum(counts[kind] for kind in rest))
    return counts
