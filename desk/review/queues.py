"""Queues: made from a view's images, handed out one by one, and how they stand.

An image is handed to as many readers as it should be, and no reader is told which cases are known ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, Body, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from dermbatch import layout
from dermbatch.records.plan import ReviewPlan
from dermbatch.records.review import Case, Decision, Queue
from dermbatch.review import queues as kept
from dermbatch.review.kept import decisions, has_opened
from dermbatch.review.leases import LEASE_SECONDS, Leases
from dermbatch.review.plans import plan_of
from dermbatch.store import ObjectStore
from desk.api.answers import json_of
from desk.api.sets import sets_of
from desk.desk import Person, TheDesk, ThePerson, TheStore
from desk.door.tenancy import check_own
from desk.problems import Problem
from desk.results.shelf import Shelf
from desk.results.view import View
from orchestrator.reporting.table.columns import truths

router = APIRouter(prefix="/v1/queues", tags=["review"])

_MOST = 10_000
_ANYBODY = 1_000_000  # a known case is for all, and one that was returned for whom it was returned to


class QueueRequest(BaseModel):
    """A queue as it is asked for."""

    model_config = ConfigDict(extra="forbid")

    name: str
    batches: list[str] = Field(default=[], description="batches of the images; by default those of the plan")
    plan: str | None = Field(default=None, description="plan of what to read next; its images, in its order")
    q: str = Field(default="", description="the gallery's query line: flag:low_confidence, set:doubtful")
    order: Literal["index", "uncertainty", "chance"] = Field(
        default="index", description="order: the most uncertain first, or by chance"
    )
    most: int = Field(default=100, ge=1, le=_MOST, description="most images, not counting known cases")
    seed: int = Field(default=0, description="seed of the order by chance")
    readers: int = Field(default=1, ge=1, le=10, description="number of readers of each image")
    blind: bool = Field(default=False, description="whether models' results are hidden until a decision")
    blank_share: float = Field(
        default=0.0, ge=0, le=1, description="share of cases that start with an empty picture"
    )
    known: str | None = Field(default=None, description="one of your sets of adjudicated images, as known cases")
    known_share: float = Field(default=0.1, gt=0, le=0.5, description="share of known cases among all cases")


class OneCase(BaseModel):
    """An image."""

    model_config = ConfigDict(extra="forbid")

    batch: str
    index: int = Field(ge=0)

    def case(self) -> Case:
        """As it stands in queues."""
        return Case(batch=self.batch, index=self.index)


class Onward(BaseModel):
    """What is asked of the next case."""

    model_config = ConfigDict(extra="forbid")

    after: OneCase | None = Field(default=None, description="case to skip, with those before it")


def _leases(desk: TheDesk) -> Leases:
    return Leases(desk.redis)


TheLeases = Annotated[Leases, Depends(_leases)]


@router.get("")
def queues(
    request: Request, store: TheStore, leases: TheLeases, person: ThePerson, name: str | None = None
) -> Response:
    """All queues, the newest first, and how each stands for the asker; or one alone."""
    if name is not None:
        check_own(person, name, "queue")
    found = queues_of(store, person) if name is None else [kept.named(store, name)]
    return json_of(request, [stand(one, leases, person.name) for one in found])


def queues_of(store: ObjectStore, person: Person) -> list[Queue]:
    """The queues that somebody may see, the newest first."""
    return [one for one in kept.all_queues(store) if person.sees(one.name)]


def stand(queue: Queue, leases: Leases, reader: str) -> dict[str, Any]:
    """How a queue stands, by Redis; readings that Redis has lost count again when the queue reaches them."""
    now, known = leases.now(), set(queue.known)
    standing = list(zip(queue.cases, leases.standing(queue.cases), strict=True))
    others = [sum(_counts(how, now) for name, how in one.items() if name != reader) for _, one in standing]
    mine = [one.get(reader) in {"read", "opened"} for _, one in standing]
    wanted = [_ANYBODY if case in known else queue.readers for case, _ in standing]
    return {
        **queue.model_dump(mode="json", exclude={"cases", "known", "format"}),
        "images": len(queue.cases),
        "mine": sum(mine),
        "open": sum(not own and n < many for own, n, many in zip(mine, others, wanted, strict=True)),
        "held": sum(any(how.isdigit() and int(how) > now for how in one.values()) for _, one in standing),
        "readings": sum(how == "read" for _, one in standing for how in one.values()),
    }


def _counts(how: str, now: int) -> bool:
    return how == "read" or (how.isdigit() and int(how) > now)


@router.post("", status_code=201)
def make(
    asked: Annotated[QueueRequest, Body()], request: Request, store: TheStore, person: ThePerson, leases: TheLeases
) -> Response:
    """Make a queue of the images that a query means now; it does not change when others come."""
    shelf: Shelf = request.app.state.shelf
    plan = None if asked.plan is None else _plan(store, asked.plan, person)
    batches = asked.batches or _batches(store, plan)
    for batch in batches:
        check_own(person, batch)
    name = asked.name if person.tenant is None else layout.owned(asked.name, person.tenant)
    sets = sets_of(store, person)
    view = shelf.view(store, batches, asked.q, "-uncertainty" * (asked.order == "uncertainty"), sets)
    cases = _chosen(view, asked) if plan is None else _planned(view, plan, asked)
    known = _known(store, sets, asked, person)
    known = known[: max(1, round(len(cases) * asked.known_share / (1 - asked.known_share)))]
    if not cases:
        raise Problem(400, "nothing_meant", "this query matches no image with a result", at={"in": "body"})
    queue = Queue(
        name=name,
        made=datetime.now(UTC),
        by=person.name,
        how=_how(asked, batches),
        cases=kept.mixed(cases, known, name),
        readers=asked.readers,
        blind=asked.blind,
        blank_share=asked.blank_share,
        known=tuple(known),
    )
    kept.add(store, queue)
    if queue.blind:
        leases.blind(queue.name, queue.cases)
    answer = json_of(request, stand(queue, leases, person.name))
    answer.status_code = 201
    return answer


@router.post("/{name}/next")
def following(
    name: str,
    request: Request,
    store: TheStore,
    leases: TheLeases,
    person: ThePerson,
    asked: Annotated[Onward | None, Body()] = None,
) -> Response:
    """Lease the next image to whoever asks, first what was returned to them; ``none_left`` if there is none."""
    queue = kept.named(store, name)
    after = None if asked is None or asked.after is None else asked.after.case()
    found = _next(queue, store, leases, person, after)
    if found is None:
        standing = stand(queue, leases, person.name)
        return json_of(
            request, {"case": None, "none_left": True, "held": standing["held"], "mine": standing["mine"]}
        )
    return json_of(request, {**_handed(queue, found, store, leases, person), "none_left": False})


@router.post("/{name}/leases")
def hold(
    name: str,
    asked: Annotated[OneCase, Body()],
    request: Request,
    store: TheStore,
    leases: TheLeases,
    person: ThePerson,
) -> Response:
    """Lease an image, or keep its lease; 409 where others have it by now, or who asks is done with it."""
    queue, case = kept.named(store, name), asked.case()
    if case not in queue.cases:
        raise Problem(404, "not_found", "this image is not in the queue")
    returned = case in leases.returned(person.name, [case])
    many = _ANYBODY if returned or case in queue.known else queue.readers
    if leases.take(person.name, [(case, many)]) is None:
        raise Problem(409, "not_leased", "another reader has this image now, or you have already decided on it")
    return json_of(request, _handed(queue, case, store, leases, person))


@router.delete("/{name}/leases/{batch}/{index}", status_code=204)
def give_back(name: str, batch: str, index: int, leases: TheLeases, person: ThePerson) -> None:
    """Give an image back undecided."""
    leases.give_back(person.name, Case(batch=batch, index=index))


def _handed(queue: Queue, case: Case, store: ObjectStore, leases: Leases, person: Person) -> dict[str, Any]:
    if queue.blind:
        if not leases.is_blind(queue.name):  # Redis has lost it
            leases.blind(queue.name, queue.cases)
        leases.hide(person.name, case)
    returned = kept.returned_to(person.name, decisions(store, case.batch, case.index))
    return {
        "case": {"batch": case.batch, "index": case.index},
        "blind": queue.blind,
        "looked": queue.blind and leases.has_looked(person.name, case),
        "blank": kept.begins_blank(queue, case, person.name),
        "returned": None if returned is None else {"by": returned.reader, "comment": returned.comment},
        "seconds": LEASE_SECONDS,
    }


def _next(queue: Queue, store: ObjectStore, leases: Leases, person: Person, after: Case | None) -> Case | None:
    known = set(queue.known)
    start = queue.cases.index(after) + 1 if after in queue.cases else 0
    ordered = [*queue.cases[start:], *queue.cases[:start]]
    first = [(case, _ANYBODY) for case in leases.returned(person.name, ordered) if case != after]
    waiting = [
        *first,
        *((case, _ANYBODY if case in known else queue.readers) for case in ordered if case != after),
    ]
    while (place := leases.take(person.name, waiting)) is not None:
        case, many = waiting.pop(place)
        if _is_open(case, many, person.name, decisions(store, case.batch, case.index), leases, store):
            return case
    return None


def _is_open(
    case: Case, many: int, reader: str, found: Sequence[Decision], leases: Leases, store: ObjectStore
) -> bool:
    """Whether a reader who has just leased an image may have it, by what is stored; Redis is told about that."""
    if kept.returned_to(reader, found) is not None:
        return True
    if any(one.reader == reader and one.kind != "return" for one in found):
        leases.done(case, reader)
        return False
    if found and has_opened(store, case.batch, case.index, reader):
        leases.done(case, reader, "opened")
        return False
    others = kept.readers_of(found)
    if len(others) < many:
        return True
    leases.give_back(reader, case)
    for other in others:
        if kept.returned_to(other, found) is None:
            leases.done(case, other)
    return False


def _plan(store: ObjectStore, name: str, person: Person) -> ReviewPlan:
    """A plan whose images the asker may all see; whether any other plan exists is not revealed."""
    found = plan_of(store, name)
    if found is None or not all(person.sees(one.batch) for one in found.images):
        raise Problem(404, "no_plan", f"there is no plan {name!r}", at={"in": "body", "parameter": "plan"})
    return found


def _batches(store: ObjectStore, plan: ReviewPlan | None) -> list[str]:
    """The batches of a plan that are still there."""
    if plan is None:
        raise Problem(400, "usage", "name batches or a plan", at={"in": "body", "parameter": "batches"})
    there = set(store.folders(store.bucket, layout.BATCHES))
    found = [batch for batch in dict.fromkeys(one.batch for one in plan.images) if batch in there]
    if not found:
        raise Problem(400, "nothing_meant", "no batch of this plan exists any more", at={"in": "body"})
    return found


def _planned(view: View, plan: ReviewPlan, asked: QueueRequest) -> list[Case]:
    """The images of a plan that have a result and match the query, in the plan's order."""
    there = set(_cases(view, _done(view)))
    wanted = (Case(batch=one.batch, index=one.index) for one in plan.images)
    return [case for case in wanted if case in there][: asked.most]


def _how(asked: QueueRequest, batches: Sequence[str]) -> str:
    """What chose the images, in words."""
    meant = f"{asked.q or 'all images'} of {', '.join(batches)}"
    return (f"plan {asked.plan}: {meant}" if asked.plan else f"{meant}, by {asked.order}")[:4000]


def _done(view: View) -> Any:
    """The rows of images with a result, in the view's order."""
    outcome, order = view.column("outcome"), view.order
    if outcome is None:
        return order
    return order[truths(pc.equal(outcome.cast(pa.string()), "done"))[order]]


def _chosen(view: View, asked: QueueRequest) -> list[Case]:
    order = _done(view)
    if asked.order == "chance":
        order = np.random.default_rng(asked.seed).permutation(order)
    return _cases(view, order[: asked.most])


def _cases(view: View, rows: Any) -> list[Case]:
    return [Case(batch=batch, index=index) for batch, index in view.named(rows)]


def _known(
    store: ObjectStore, sets: dict[str, set[tuple[str, int]]], asked: QueueRequest, person: Person
) -> list[Case]:
    """Known cases of the set, the adjudicated ones alone; a set may name what is another tenant's, or nowhere."""
    if asked.known is None:
        return []
    if asked.known not in sets:
        raise Problem(400, "usage", f"you have no set {asked.known!r}", at={"in": "body", "parameter": "known"})
    named = ((batch, index) for batch, index in sorted(sets[asked.known]) if person.sees(batch))
    found = [Case(batch=batch, index=index) for batch, index in named]
    known = [case for case in found if _is_adjudicated(decisions(store, case.batch, case.index))]
    if not known:
        text = f"no image of the set {asked.known!r} was adjudicated, so none of its answers is known"
        raise Problem(400, "nothing_known", text, at={"in": "body", "parameter": "known"})
    return known


def _is_adjudicated(found: Iterable[Decision]) -> bool:
    return any(one.kind == "adjudicate" for one in found)
