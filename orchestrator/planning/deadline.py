"""Deadlines: whether one can be met, judged beforehand from the work and the present capacity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from dermbatch.errors import UsageError
from dermbatch.ledger import BatchState
from dermbatch.records.asked import Order
from dermbatch.stages import closure
from orchestrator.batches.history import History

Prospect = Literal["met", "open", "missed", "unknown"]

_SENTENCES: dict[Prospect, str] = {
    "met": "it can be met, even if everything that is open goes first",
    "open": "it can be met if this batch goes before what is open, but not after it",
    "missed": "it cannot be met, even if nothing else is done",
    "unknown": "it is not known yet whether it can be met",
}


@dataclass(frozen=True)
class Promise:
    """What can be said beforehand about a deadline.

    Attributes:
        deadline: By when.
        answer: ``met`` or ``missed`` whatever else is open; ``open`` if that decides; ``unknown``.
        own_seconds: Seconds that the batch alone takes; none if unknown.
        ahead_seconds: Seconds until everything that is open now is done; none if unknown.
    """

    deadline: datetime
    answer: Prospect
    own_seconds: float | None
    ahead_seconds: float | None

    def to_dict(self) -> dict[str, str | float | None]:
        """Plain values for JSON."""
        return {
            "deadline": self.deadline.isoformat(),
            "answer": self.answer,
            "sentence": _SENTENCES[self.answer],
            "own_seconds": self.own_seconds,
            "ahead_seconds": self.ahead_seconds,
        }

    @property
    def sentence(self) -> str:
        """For people."""
        return f"deadline {self.deadline.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {_SENTENCES[self.answer]}" + (
            f" ({_about(self.own_seconds)} of its own, {_about(self.ahead_seconds)} of what is open)"
            if self.answer != "unknown"
            else ""
        )


def promise(deadline: datetime, now: datetime, own: float | None, open_batches: Iterable[BatchState]) -> Promise:
    """Whether a deadline can be met.

    Args:
        deadline: By when.
        now: When the batch begins.
        own: Seconds that it alone takes with the worker slots that there are.
        open_batches: The batches that share the workers; paused ones take nothing.
    """
    lefts = [one.seconds_left for one in open_batches if one.state == "open" and one.left > 0]
    known = [left for left in lefts if left is not None]
    ahead = (
        None if len(known) < len(lefts) else max(known, default=0.0)
    )  # they share the workers, and the last one ends then
    there_is = (deadline - now).total_seconds()
    answer: Prospect = "unknown"
    if own is not None and own > there_is:
        answer = "missed"
    elif own is not None and ahead is not None:
        answer = "met" if own + ahead <= there_is else "open"
    return Promise(deadline, answer, own, ahead)


def reckoned(order: Order, images: int, history: History | None, slots: int) -> float | None:
    """Seconds that this many images take at most, if nothing is known about them; none without a history."""
    stages = closure(frozenset(order.stages))
    if history is None or any(stage not in history.stage_seconds for stage in stages):
        return None
    each = history.other_seconds + sum(history.stage_seconds[stage] for stage in stages)
    return images * each / max(1, min(slots or history.slots, images))


def check(order: Order, now: datetime) -> None:
    """Refuse a deadline that has passed.

    Raises:
        UsageError: In one sentence.
    """
    if order.deadline is not None and order.deadline <= now:
        raise UsageError(
            f"the deadline {order.deadline.astimezone(UTC):%Y-%m-%d %H:%M} UTC has passed; give a later one"
        )


def urgency(deadline: datetime | None, now: datetime, left: float | None) -> float:
    """The factor, 1 to 10, by which the weight of a batch grows so that it meets its deadline.

    A batch that is on time needs no more than its share, and one that is late has nothing left to gain.

    Args:
        deadline: By when; none if it has no deadline.
        now: The time.
        left: Seconds that it still takes at its present share; none if unknown.
    """
    if deadline is None or left is None or deadline <= now:
        return 1.0
    return min(10.0, max(1.0, left / (deadline - now).total_seconds()))


def _about(seconds: float | None) -> str:
    return "an unknown time" if seconds is None else f"about {timedelta(seconds=round(seconds))}"
