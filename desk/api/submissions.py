"""New batches: submitting, estimating, and repeating a request."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, cast

from fastapi import APIRouter, Header, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from dermbatch.errors import UsageError
from dermbatch.ledger.connection import sorted_errors
from dermbatch.records.asked import Filters, Lane, Order
from dermbatch.stages import ORDER
from dermbatch.store import ObjectStore
from desk.api.answers import as_json
from desk.api.uploads import prefix_of
from desk.desk import Desk, Person, TheDesk, ThePerson, TheStore
from desk.problems import Problem
from orchestrator.planning import models as served
from orchestrator.planning import submission
from orchestrator.planning.deadline import promise
from orchestrator.reporting.overview import Standing, standing
from orchestrator.steering.controls import begin, begin_if_open

router = APIRouter(prefix="/v1", tags=["batches"])

_DAY = 24 * 3600
_PLANNING = 60


class BatchRequest(BaseModel):
    """What is to become a batch."""

    model_config = ConfigDict(extra="forbid")

    inputs: list[str] = Field(
        min_length=1,
        max_length=100,
        description="s3://bucket/prefix, or `upload:` followed by the `into` of uploads",
    )
    batch: str | None = None
    stages: list[str] = list(ORDER)
    models: Mapping[str, str] = {}
    lane: Lane = "bulk"
    weight: int = Field(default=1, ge=1, le=100)
    max_failed_share: float | None = Field(default=None, gt=0, le=1)
    dicom: bool = False
    send_to: str | None = None
    output: str | None = None
    deadline: AwareDatetime | None = Field(default=None, description="time by which everything is to be done")
    tenant: str | None = Field(default=None, description="tenant of the batch; by default your own")
    include: list[str] = []
    exclude: list[str] = []
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class _Meant:
    """The same, as planning takes it."""

    order: Order
    inputs: list[str]
    own: frozenset[str]
    filters: Filters


@router.post("/batches", status_code=201, response_model=Standing)
def submit(
    asked: BatchRequest,
    desk: TheDesk,
    store: TheStore,
    person: ThePerson,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> Response:
    """Plan a batch; answers once it is planned. Repeating it with one ``Idempotency-Key`` gives the same batch.

    If an answer was lost, ask again with the same key: what was begun continues.
    """
    meant = _meant(asked, desk, person)
    name = _name(asked, meant.order.tenant, desk, person, idempotency_key)
    there = submission.before(name, meant.order, meant.inputs, desk.settings, store, filters=meant.filters)
    if there is not None:
        begin_if_open(store, desk.ledger, there)
    else:
        with _alone(desk, name) as still_planning:
            prepared = _prepared(meant, desk, store)
            begin(store, desk.ledger, prepared.plan(name, store, lambda record: still_planning()))
    found = standing(store, desk.ledger, name).batches[0]
    headers = {"Location": f"/v1/batches/{name}"}
    return Response(as_json(found), 201, headers, "application/json")


@router.post("/estimates")
def estimate(
    asked: BatchRequest,
    desk: TheDesk,
    store: TheStore,
    person: ThePerson,
    price: float | None = None,
    gpus: int = 1,
) -> dict[str, Any]:
    """Estimate: images, copies, what is done already, time, cost. Nothing is written."""
    meant = _meant(asked, desk, person)
    slots = desk.ledger.everywhere().slots
    offer = served.Offer.of(desk.settings, lambda line: None)
    estimate = _prepared(meant, desk, store).estimate(store, offer, slots=slots, price=price, gpus=gpus).to_dict()
    if meant.order.deadline is not None:
        open_batches = desk.ledger.everywhere().batches
        promised = promise(meant.order.deadline, datetime.now(UTC), estimate["seconds"], open_batches)
        estimate["deadline"] = promised.to_dict() | ({} if person.tenant is None else {"ahead_seconds": None})
    return estimate if person.tenant is None else estimate | {"batches": None}  # of others, maybe


def _meant(asked: BatchRequest, desk: Desk, person: Person) -> _Meant:
    order = submission.order(
        desk.settings,
        asked.stages,
        served.named(f"{stage}={model}" for stage, model in asked.models.items()),
        **asked.model_dump(
            include={"lane", "weight", "max_failed_share", "dicom", "send_to", "output", "deadline"}
        ),
        tenant=_tenant(asked, person),
    )
    filters = Filters(
        include=tuple(asked.include), exclude=tuple(asked.exclude), since=asked.since, until=asked.until
    )
    submission.check_inputs(order, asked.inputs, desk.settings)
    inputs = [_input(given, desk, person) for given in asked.inputs]
    return _Meant(order, inputs, frozenset(inputs) - set(asked.inputs), filters)


def _tenant(asked: BatchRequest, person: Person) -> str:
    if person.tenant is not None and asked.tenant not in {None, person.tenant}:
        raise UsageError(f"there is no tenant {asked.tenant!r}")  # as where there is none
    return asked.tenant or person.tenant or "default"


def _input(given: str, desk: Desk, person: Person) -> str:
    """An input in the object store: files of this machine are not the requester's."""
    if given.startswith("upload:"):
        return prefix_of(desk, person, given.removeprefix("upload:"))
    if given.startswith("s3://"):
        return given
    raise UsageError("an input is s3://bucket/prefix, or an upload")


def _prepared(meant: _Meant, desk: Desk, store: ObjectStore) -> submission.Submission:
    offer = served.Offer.of(desk.settings, lambda line: None)
    return submission.prepare(
        meant.order,
        meant.inputs,
        desk.settings,
        store,
        offer,
        filters=meant.filters,
        audit=store.audit,
        own=meant.own,
    )


def _name(asked: BatchRequest, tenant: str, desk: Desk, person: Person, key: str | None) -> str:
    """The batch's name: as given, else made; of the same request, the same one.

    Raises:
        Problem: 422 if the key came with another request before.
    """
    given = asked.batch or f"{submission.new_name(None)}-{secrets.token_hex(3)}"
    name = submission.name_for(given, tenant, desk.settings)
    if key is None:
        return name
    whose = hashlib.sha256(f"{person.key}\0{key}".encode()).hexdigest()  # names and keys may have spaces
    place = f"desk:request:{whose}"
    mine = {"request": hashlib.sha256(asked.model_dump_json().encode()).hexdigest(), "name": name}
    with sorted_errors():
        if desk.redis.set(place, json.dumps(mine), nx=True, ex=_DAY):
            return name
        first = json.loads(cast("str | None", desk.redis.get(place)) or json.dumps(mine))
    if first["request"] != mine["request"]:
        raise Problem(422, "key_used", "this Idempotency-Key was used for another request; take a new one")
    return str(first["name"])


@contextmanager
def _alone(desk: Desk, name: str) -> Iterator[Any]:
    """Keep a second request from planning the same batch at the same time."""
    place, mine = f"desk:planning:{name}", secrets.token_hex(8)
    with sorted_errors():
        if not desk.redis.set(place, mine, nx=True, ex=_PLANNING):
            raise Problem(
                409,
                "being_planned",
                f"batch {name!r} is being planned by another request; try again in a moment",
                headers={"Retry-After": "5"},
            )
    try:
        yield lambda: desk.redis.expire(place, _PLANNING)
    finally:
        with sorted_errors():
            desk.redis.delete(place)
