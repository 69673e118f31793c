"""Pages of review: queues, correcting an image, agreement."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from dermbatch.review.queues import all_queues
from dermbatch.review.terms import DIAGNOSES, FEATURES
from desk.api.sets import sets_of
from desk.desk import TheDesk, ThePerson, TheStore
from desk.pages.pages import page_of
from desk.review.queues import TheLeases, stand
from orchestrator.batches.entries import named
from orchestrator.reporting.overview import overview

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/review")
def review(
    desk: TheDesk,
    store: TheStore,
    leases: TheLeases,
    person: ThePerson,
    none: Annotated[str, Query(description="a queue that has none left")] = "",
    batch: str = "",
    q: str = "",
) -> HTMLResponse:
    """Queues, and new ones."""
    queues = [stand(one, leases, person.name) for one in all_queues(store)]
    known = [one.name for one in overview(store, desk.ledger).batches]
    asked = {"batch": batch, "q": q}
    sets = sorted(sets_of(store, person))
    return page_of("review.html", person, queues=queues, known=known, none=none, asked=asked, sets=sets)


@router.get("/correct/{batch}/{index}")
def correct(batch: str, index: int, store: TheStore, person: ThePerson) -> HTMLResponse:
    """One image, to be corrected."""
    found = named(store, batch)
    return page_of("correct.html", person, batch=found, index=index, features=FEATURES, diagnoses=DIAGNOSES)
