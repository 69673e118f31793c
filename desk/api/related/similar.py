"""Similar cases of an image, and which regions match."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from dermbatch.store import ObjectStore
from desk.api.answers import json_of
from desk.api.images import TheRecord
from desk.desk import TheDesk, ThePerson, TheStore
from orchestrator.similar.answer import MOST, Question, answer
from orchestrator.similar.answer_json import values_of
from orchestrator.similar.growing import indexes, waiting
from orchestrator.similar.held import Index
from orchestrator.similar.shelf import IndexShelf, Refinement

router = APIRouter(prefix="/v1", tags=["similar"])


def refinement(
    diagnosis: Annotated[str | None, Query(description="known diagnosis, or else the most probable one")] = None,
    site: Annotated[str | None, Query(description="site of the body, if known")] = None,
    since: Annotated[date | None, Query(description="taken or processed on this day or later")] = None,
    until: Annotated[date | None, Query(description="taken or processed on this day or earlier")] = None,
) -> Refinement:
    """Which cases to search; empty fields do not restrict."""
    return Refinement(diagnosis or None, site or None, since, until)


@router.get("/batches/{batch}/images/{index}/similar")
def similar(
    request: Request,
    found: TheRecord,
    store: TheStore,
    person: ThePerson,
    among: Annotated[Refinement, Depends(refinement)],
    count: Annotated[int, Query(ge=1, le=MOST)] = 5,
    region: Annotated[list[int] | None, Query(description="only these regions count, by number")] = None,
    same: Annotated[bool, Query(description="include the same lesion or person")] = False,
) -> Response:
    """The cases most similar to an image, most similar first, with the matching regions and what each counted.

    Similarities are not probabilities; if ``sure`` is false, nothing is near, and ``why`` says so.
    """
    shelf: IndexShelf = request.app.state.similar
    question = Question(found, count, among, tuple(dict.fromkeys(region or ())), same, person.tenant)
    return json_of(request, values_of(found, answer(store, shelf, question)))


@router.get("/indexes")
def all_indexes(desk: TheDesk, request: Request, person: ThePerson) -> Response:
    """The indexes of similar cases: version, model, cases, and how many images they do not hold yet."""
    tenant = person.tenant
    found = [one for one in indexes(desk.store) if tenant is None or one.of(tenant).shards]
    return json_of(request, [_standing(desk.store, one, tenant) for one in found])


def _standing(store: ObjectStore, index: Index, tenant: str | None) -> dict[str, Any]:
    """Of one tenant nothing of when it grew, as it grows with others' batches."""
    body = {"model": index.model.model_dump(), "cases": index.cases, "not_held_yet": waiting(store, index, tenant)}
    if tenant is None:
        return body | {"version": index.version, "made": index.made}
    return body | {"cases": index.of(tenant).cases}
