"""How batches stand, for ``dermbatch status``: open ones from the ledger, closed ones from the object store."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Literal

from dermbatch import layout
from dermbatch.errors import NewerFormat, ObjectNotFound, PermanentError, RecordDamaged, UsageError
from dermbatch.ledger import BatchState, Ledger
from dermbatch.records.asked import BatchSummary, Lane, PlanRecord
from dermbatch.store import ObjectStore
from dermbatch.stored import read
from orchestrator.batches.entries import batch_names, read_batch
from orchestrator.batches.outcomes import in_order
from orchestrator.batches.summary import read_summary

NEWEST = 20
"""Closed batches that are shown unless all are asked for."""

_AT_A_TIME = 16

State = Literal["planning", "waiting", "open", "paused", "cancelled", "finished"]
"""``waiting``: planned, but no orchestrator has taken it up (again). One with ``closed`` has ended."""


@dataclass(frozen=True)
class Standing:
    """How one batch stands.

    Attributes:
        name: Its name.
        state: Its state.
        why: Why it is paused or cancelled, for people.
        lane, weight: How it is fed; not kept of closed batches.
        images: How many it has; so far, while it is planned.
        done, failed, in_flight: How many of them have a result, failed, are queued or worked on.
        rate: Outcomes a second: lately, or from the first to the last of a closed batch.
        seconds_left: Seconds that it will still take, judged by the work left; none if unknown.
        reasons: Failures by reason code, most frequent first.
        created, closed: When it was planned, when it ended.
        growing: Whether it takes images in.
        rule: Of watching, by which it takes or took images in.
    """

    name: str
    state: State
    why: str = ""
    lane: Lane | None = None
    weight: int | None = None
    images: int = 0
    done: int = 0
    failed: int = 0
    in_flight: int = 0
    rate: float | None = None
    seconds_left: float | None = None
    reasons: dict[str, int] = field(default_factory=dict)
    created: datetime | None = None
    closed: datetime | None = None
    growing: bool = False
    rule: str | None = None


@dataclass(frozen=True)
class Overview:
    """The state of all batches.

    Attributes:
        batches: Open ones first, oldest first; then closed ones, the one that closed last first.
        slots: Worker slots heard of lately.
        oldest_live: Seconds that the oldest waiting live image has waited; none if none is waiting.
        left_out: Closed batches that are not listed.
    """

    batches: Sequence[Standing]
    slots: int
    oldest_live: float | None
    left_out: int = 0


def overview(
    store: ObjectStore, ledger: Ledger, *, everything: bool = False, tenant: str | None = None
) -> Overview:
    """How all batches stand, or those of one tenant.

    Args:
        store: Knows the closed ones.
        ledger: Knows the open ones.
        everything: All closed batches, not only the newest.
        tenant: Only this tenant's; nothing is said about others.

    Raises:
        LedgerUnavailable, StoreUnavailable, StoreRefused: If one of them does not answer.
    """
    moment = ledger.everywhere()
    fed = [of_state(state) for state in moment.batches if tenant is None or layout.is_owned(state.name, tenant)]
    known = {one.name for one in fed}
    pending: list[Standing] = []
    closed: list[tuple[datetime, str, Standing]] = []
    ended = 0
    names = (name for name in batch_names(store, tenant) if name not in known)
    for one in in_order(lambda name: _of_store(store, name), names, _AT_A_TIME):
        if one is None:
            continue
        if one.closed is None:
            pending.append(one)
            continue
        ended += 1
        heapq.heappush(closed, (one.closed, one.name, one))
        if not everything and len(closed) > NEWEST:
            heapq.heappop(closed)
    newest = [one for _, _, one in sorted(closed, key=lambda item: item[:2], reverse=True)]
    oldest = moment.waits.get("live") if tenant is None else None
    return Overview([*fed, *pending, *newest], moment.slots, oldest, ended - len(newest))


def standing(store: ObjectStore, ledger: Ledger, name: str) -> Overview:
    """How one batch stands.

    Raises:
        UsageError: If there is no such batch.
        LedgerUnavailable, StoreUnavailable, StoreRefused: If one of them does not answer.
    """
    layout.check_batch_name(name)
    moment = ledger.of(name).snapshot()
    state = next((state for state in moment.batches if state.name == name), None)
    one = of_state(state) if state is not None else _of_store(store, name)
    if one is None:
        raise UsageError(f"there is no batch {name!r}")
    return Overview([one], moment.slots, moment.waits.get("live"))


def as_json(shown: Overview) -> str:
    """For programs: the fields of :class:`Overview` and :class:`Standing`; times in ISO 8601, UTC."""
    return json.dumps(asdict(shown), default=datetime.isoformat, indent=2)


def of_state(state: BatchState) -> Standing:
    """How an open batch stands."""
    return Standing(
        name=state.name,
        state=state.state,
        why=state.why,
        lane=state.lane,
        weight=state.weight,
        images=state.images,
        done=state.done,
        failed=state.failed,
        in_flight=state.in_flight,
        rate=state.rate,
        seconds_left=state.seconds_left if state.state == "open" else None,
        reasons=dict(Counter(state.reasons).most_common()),
        created=state.opened,
        growing=state.growing,
        rule=state.rule or None,
    )


def _of_store(store: ObjectStore, name: str) -> Standing | None:
    """A batch that the ledger does not know; none if only remains of it exist."""
    try:
        summary = read_summary(store, name)
        if summary is not None:
            return of_summary(summary)
        try:
            batch = read_batch(store, name)
        except ObjectNotFound:
            return _of_plan(store, name)
    except (PermanentError, NewerFormat) as error:  # damaged by hand, or a later version's
        return Standing(name, "waiting", why=str(error))
    return Standing(
        name,
        "waiting",
        lane=batch.order.lane,
        weight=batch.order.weight,
        images=batch.images,
        created=batch.created,
        growing=batch.growing,
        rule=batch.rule,
    )


def _of_plan(store: ObjectStore, name: str) -> Standing | None:
    try:
        plan = read(store, layout.plan_record(name), PlanRecord)
    except (ObjectNotFound, RecordDamaged):
        return None
    return Standing(
        name, "planning", lane=plan.order.lane, weight=plan.order.weight, images=plan.images, created=plan.created
    )


def of_summary(summary: BatchSummary) -> Standing:
    """How a closed batch stands."""
    rate = None
    if summary.first_started is not None and summary.last_finished is not None:
        rate = summary.done / max((summary.last_finished - summary.first_started).total_seconds(), 1e-3)
    return Standing(
        name=summary.name,
        state=summary.state,
        images=summary.images,
        done=summary.done,
        failed=summary.failed,
        rate=rate,
        reasons=summary.reasons,
        created=summary.created,
        closed=summary.closed.astimezone(UTC),
    )
