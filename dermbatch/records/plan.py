"""A review plan: which images are to be read, in which order, and why each was chosen."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from dermbatch.records.asked import Name, Record, Stored

Strategy = Literal["entropy", "diversity", "disagreement", "random"]

PlanReason = Literal["cluster", "entropy", "diversity", "disagreement", "random"]
"""Why an image is in a plan: the middle of a cluster of embeddings, the strategy's choice, or chance."""


class Planned(Record):
    """An image of a plan.

    Attributes:
        batch, index: Which image.
        sha256: SHA-256 of the image when the plan was made; if it differs now, it is another image.
        reason: Why it was chosen.
        score: The score behind the choice, if any: its entropy (nats), its distance to the nearest image chosen
            before it (1 - cosine), or its disagreement (nats).
    """

    batch: str
    index: int = Field(ge=0)
    sha256: str
    reason: PlanReason
    score: float | None = None


class ReviewPlan(Stored):
    """A plan; ``reviews/_plans/<name>.json``, written once.

    Attributes:
        name: Name of the plan.
        tenant: Whose images they are.
        made: When.
        strategy: The strategy that chose.
        seed: Seed of everything random.
        among: How many images could have been chosen.
        left_out: How many could not, by reason.
        images: In the order in which they are to be read, which does not reveal why they were chosen.
    """

    name: Name
    tenant: Name = "default"
    made: datetime
    strategy: Strategy
    seed: int
    among: int
    left_out: dict[str, int] = Field(default_factory=dict)
    images: tuple[Planned, ...]
