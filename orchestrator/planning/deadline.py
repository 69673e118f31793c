"""Deadlines: whether one can be met, told beforehand by the work there is and present capacity."""

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

Answer = Literal["met", "open", "missed", "unknown"]

_SENTENCES: dict[Answer, str] = {
    "met": "it can be met, also where all that is open comes first",
    "open": "it can be met where this batch is ahead of what is open, and not where that comes first",
    "missed": "it cannot be met, even where nothing else is done",
    "unknown": "nobody can tell yet whether it can be met",
}


@dataclass(frozen=True)
class Promise:
    """What is told beforehand of a deadline.

    Attributes:
        deadline: By when.
        answer: ``met`` or ``missed`` whatever else is open; ``open`` where that decides; ``unknown``.
        own_seconds: That the batch takes by itself; none where it is not known.
        ahead_seconds: Until all that is open now is done; none likewise.
    """

    deadline: datetime
    answer: Answer
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
        own: Seconds that it takes by itself with the worker slots that there are.
        open_batches: How those stand that workers are shared with; paused ones take nothing.
    """
    lefts = [one.seconds_left for one in open_batches if one.state == "open" and one.left > 0]
    known = [left for left in lefts if left is not None]
    ahead = None if len(known) < len(lefts) else max(known, default=0.0)  # they share: the last one ends then
    there_is = (deadline - now).total_seconds()
    answer: Answer = "unknown"
    if own is not None and own > there_is:
        answer = "missed"
    elif own is not None and ahead is not None:
        answer = "met" if own + ahead <= there_is else "open"
    return Promise(deadline, answer, own, ahead)


def reckoned(order: Order, images: int, history: History | None, slots: int) -> float | None:
    """Seconds that so many images take at most, where nothing is known of them; none without a history."""
    stages = closure(frozenset(order.stages))
    if history is None or any(stage not in history.stage_seconds for stage in stages):
        return None
    each = history.other_seconds + sum(history.stage_seconds[stage] for stage in stages)
    return images * each / max(1, min(slots or history.slots, images))


def check(order: Order, now: datetime) -> None:
    """Refuse a deadline that is over.

    Raises:
        UsageError: In one sentence.
    """
    if order.deadline is not None and order.deadline <= now:
        raise UsageError(f"the deadline {order.deadline.astimezone(UTC):%Y-%m-%d %H:%M} UTC is over")


def urgency(deadline: datetime | None, now: datetime, left: float | None) -> float:
    """By how much the weight of a batch grows so that it meets its deadline: 1, up to 10.

    One that is in time needs no more than its share, and one that is over has nothing left to win.

    Args:
        deadline: By when; none where it has none.
        now: The time.
        left: Seconds that it still takes at its present share; none where nobody knows.
    """
    if deadline is None or left is None or deadline <= now:
        return 1.0
    return min(10.0, max(1.0, left / (deadline - now).total_seconds()))


def _about(seconds: float | None) -> str:
    return "an unknown time" if seconds is None else f"about {timedelta(seconds=round(seconds))}"
