"""Batches: their state, and steering them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, TransientError
from dermbatch.records.asked import Lane
from desk.api.answers import as_json, json_of
from desk.desk import Desk, Person, TheDesk, ThePerson, TheStore
from desk.door.tenancy import own_tenant
from desk.problems import Problem
from orchestrator.batches.entries import named
from orchestrator.metering.overview import overview as used
from orchestrator.reporting.overview import Overview, Standing, of_state, overview, standing
from orchestrator.steering import controls
from orchestrator.steering.replay import retry as replay

router = APIRouter(prefix="/v1/batches", tags=["batches"])
news = APIRouter(prefix="/v1", tags=["batches"])

_LOOK_EVERY = 1.0
_ALIVE_EVERY = 15

_REPORTS = {"report.html": layout.report, "comparison.html": layout.comparison}
_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; frame-ancestors 'self'"
)


@router.get("", response_model=Overview)
def batches(
    request: Request,
    desk: TheDesk,
    store: TheStore,
    person: ThePerson,
    everything: Annotated[bool, Query(alias="all", description="all closed batches, not only the newest")] = False,
) -> Response:
    """The state of all batches: open ones first, then closed ones, most recently closed first."""
    return json_of(request, asdict(overview(store, desk.ledger, everything=everything, tenant=person.tenant)))


@news.get("/usage")
def usage(request: Request, desk: TheDesk, store: TheStore, person: ThePerson) -> Response:
    """What tenants used, as counted when batches closed; decimals are strings, so that none is rounded."""
    found = used(store, desk.settings.metering.prices, person.tenant)
    return json_of(request, json.loads(json.dumps(asdict(found), default=lambda number: f"{number:f}")))


@router.get("/{name}", response_model=Standing)
def batch(name: str, request: Request, desk: TheDesk, store: TheStore) -> Response:
    """The state of one batch, and what was asked."""
    shown = standing(store, desk.ledger, name)
    body = asdict(shown.batches[0])
    if body["state"] != "planning":
        body["order"] = named(store, name).order.model_dump(mode="json")
    return json_of(request, body)


@router.get("/{name}/events", response_class=StreamingResponse)
async def events(name: str, request: Request, desk: TheDesk) -> StreamingResponse:
    """The state of a batch as it changes, until it has closed: server-sent events named ``standing``."""
    await run_in_threadpool(standing, desk.store, desk.ledger, name)
    return StreamingResponse(_standings(desk, name, request), media_type="text/event-stream")


@news.get("/events", response_class=StreamingResponse)
async def open_batches(request: Request, desk: TheDesk, person: ThePerson) -> StreamingResponse:
    """All open batches as they change: server-sent events named ``open_batches``."""
    return StreamingResponse(_overviews(desk, request, person), media_type="text/event-stream")


@router.get("/{name}/files/{file}")
def report(name: str, file: str, store: TheStore) -> Response:
    """The report of a closed batch, or its comparison: one self-contained page."""
    if file not in _REPORTS:
        raise Problem(404, "not_found", f"batches have no {file}")
    named(store, name)
    try:
        body = store.get(store.bucket, _REPORTS[file](name))
    except ObjectNotFound as error:
        raise Problem(404, "not_found", f"batch {name!r} has no {file}, or not yet") from error
    return Response(body, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})


class Priority(BaseModel):
    """Another lane, another weight."""

    lane: Lane | None = None
    weight: int | None = Field(default=None, ge=1, le=100)


@router.post("/{name}/pause", response_model=Standing)
def pause(name: str, desk: TheDesk, store: TheStore) -> Response:
    """Start no further images; those in flight are finished."""
    controls.pause(store, desk.ledger, name)
    return _stands(desk, name)


@router.post("/{name}/resume", response_model=Standing)
def resume(name: str, desk: TheDesk, store: TheStore) -> Response:
    """Continue a paused batch."""
    controls.resume(store, desk.ledger, name)
    return _stands(desk, name)


@router.post("/{name}/cancel", response_model=Standing)
def cancel(name: str, desk: TheDesk, store: TheStore) -> Response:
    """End a batch: it is closed with the outcomes that it has."""
    controls.cancel(store, desk.ledger, name)
    return _stands(desk, name)


@router.post("/{name}/priority", response_model=Standing)
def prioritize(name: str, asked: Priority, desk: TheDesk, store: TheStore, person: ThePerson) -> Response:
    """Move a batch to another lane, or give it another share of its lane, within the limits of a tenant."""
    if asked.lane is None and asked.weight is None:
        raise Problem(400, "usage", "nothing to change: give lane, weight or both")
    if (tenant := own_tenant(desk, person)) is not None:
        tenant.check_priority(asked.lane, asked.weight)
    controls.prioritize(store, desk.ledger, name, lane=asked.lane, weight=asked.weight)
    return _stands(desk, name)


@router.post("/{name}/retry")
def retry(
    name: str,
    desk: TheDesk,
    store: TheStore,
    reason: Annotated[str | None, Query(description="only images that failed for this reason")] = None,
) -> dict[str, int]:
    """Try failed images again; returns how many."""
    return {"images": replay(store, desk.ledger, name, reason)}


def _stands(desk: Desk, name: str) -> Response:
    found = standing(desk.store, desk.ledger, name).batches[0]
    return Response(as_json(asdict(found)), media_type="application/json")


async def _overviews(desk: Desk, request: Request, person: Person) -> AsyncIterator[str]:
    def look() -> list[Standing]:
        return [of_state(state) for state in desk.ledger.everywhere().batches if person.sees(state.name)]

    async for text in _changes(request, look):
        yield text if text.startswith(":") else f"event: open_batches\ndata: {text}\n\n"


async def _standings(desk: Desk, name: str, request: Request) -> AsyncIterator[str]:
    def look() -> Standing:
        return standing(desk.store, desk.ledger, name).batches[0]

    async for text in _changes(request, look):
        yield text if text.startswith(":") else f"event: standing\ndata: {text}\n\n"
        if not text.startswith(":") and json.loads(text)["closed"] is not None:
            yield "event: closed\ndata: {}\n\n"
            return


async def _changes(request: Request, look: Callable[[], Any]) -> AsyncIterator[str]:
    """What ``look`` finds, as JSON, whenever it changes; with a comment now and then, for proxies.

    While Redis or the store does not answer, the last state stands. The stream ends with the session and does not
    prolong it: an unattended page keeps nobody signed in.
    """
    last, quiet, count = "", 0.0, 1
    while not await request.is_disconnected():
        text = last
        with suppress(TransientError):
            text = as_json(await run_in_threadpool(look)).decode()
        if text != last:
            yield text
            last, quiet = text, 0.0
        elif quiet >= _ALIVE_EVERY:
            yield ": still here\n\n"
            quiet = 0.0
        if count % _ALIVE_EVERY == 0 and not await _holds(request):
            return
        count += 1
        await asyncio.sleep(_LOOK_EVERY)
        quiet += _LOOK_EVERY


async def _holds(request: Request) -> bool:
    with suppress(TransientError):
        return bool(await run_in_threadpool(request.state.holds))
    return True
