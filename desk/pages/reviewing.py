"""Pages of review: queues, correcting an image, agreement."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from dermbatch.review.queues import named as queue_named
from dermbatch.review.terms import DIAGNOSES, FEATURES
from desk.api.sets import sets_of
from desk.desk import TheDesk, ThePerson, TheStore
from desk.door.tenancy import own_tenant
from desk.pages.pages import page_of
from desk.review.agreements import Measured, agreement_of
from desk.review.queues import TheLeases, queues_of, stand
from orchestrator.batches.entries import named
from orchestrator.reporting.overview import overview

_LISTED = 500

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/review")
def review(
    desk: TheDesk,
    store: TheStore,
    leases: TheLeases,
    person: ThePerson,
    through: Annotated[str, Query(alias="none", description="queue that has no images left")] = "",
    batch: str = "",
    q: str = "",
) -> HTMLResponse:
    """Queues, and new ones."""
    queues = [stand(one, leases, person.name) for one in queues_of(store, person)]
    known = [one.name for one in overview(store, desk.ledger, tenant=person.tenant).batches]
    asked = {"batch": batch, "q": q}
    sets = sorted(sets_of(store, person))
    return page_of("review.html", person, queues=queues, known=known, through=through, asked=asked, sets=sets)


@router.get("/correct/{batch}/{index}")
def correct(batch: str, index: int, desk: TheDesk, store: TheStore, person: ThePerson) -> HTMLResponse:
    """One image, to be corrected."""
    tenant = own_tenant(desk, person)
    pacs = [name for name in sorted(desk.settings.dicomweb) if tenant is None or name in tenant.send_to]
    offered = {"features": list(FEATURES.items()), "diagnoses": DIAGNOSES, "pacs": pacs}
    return page_of("correct.html", person, 200, batch=named(store, batch), index=index, **offered)


@router.get("/agreement/{name}")
def agreement(name: str, request: Request, store: TheStore, leases: TheLeases, person: ThePerson) -> HTMLResponse:
    """How far the readers of a queue agree."""
    measured: Measured = request.app.state.measured
    queue = queue_named(store, name)
    found = agreement_of(queue, store, leases, person.name, measured)
    return page_of("agreement.html", person, found=found, cases=queue.cases[:_LISTED])
