"""Results of many images: pages for programs; orders, rows and facets for the gallery."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response

from desk.api.answers import as_json, cursor_of, is_known, next_link, read_cursor, tagged
from desk.api.sets import sets_of
from desk.desk import TheDesk, ThePerson, TheStore
from desk.digests import digest
from desk.door.blinding import note_rows
from desk.problems import Problem
from desk.results.shelf import Shelf
from desk.results.view import View

router = APIRouter(prefix="/v1/results", tags=["results"])

_MOST_ROWS = 500
_BINARY = "application/octet-stream"

Batches = Annotated[list[str], Query(alias="batch", description="name of a batch; may be given several times")]
Text = Annotated[str, Query(alias="q", description="the query line: probability:[0.2 TO 0.8] AND flag:no_lesion")]
Sort = Annotated[str, Query(description="a column, with - before it for descending order")]


def view(
    request: Request, store: TheStore, person: ThePerson, batches: Batches, q: Text = "", sort: Sort = ""
) -> View:
    """What is asked for."""
    shelf: Shelf = request.app.state.shelf
    sets = sets_of(store, person) if "set:" in q or "tag:" in q else {}
    return shelf.view(store, batches, q, sort, sets)


TheView = Annotated[View, Depends(view)]


@router.get("")
def results(
    request: Request,
    found: TheView,
    desk: TheDesk,
    person: ThePerson,
    limit: Annotated[int, Query(ge=1, le=_MOST_ROWS)] = 100,
    cursor: Annotated[str | None, Query(description="cursor that the previous page returned")] = None,
) -> Response:
    """Results a page at a time: ``results``, ``total``, and ``next``, the address of the page after it.

    A cursor continues after the last result that was returned, even if others have come meanwhile.
    """
    etag = digest(found.version, limit, cursor)
    if is_known(request, etag):
        return tagged(request, etag, None)
    start = _after(found, cursor) if cursor is not None else 0
    rows = found.order[start : start + limit]
    note_rows(desk, person, found.named(rows))
    more = start + len(rows) < len(found.order)
    last = found.pairs(rows[-1:])[0] if more else None
    following = cursor_of(found.fingerprint, (int(last[0]), int(last[1]))) if last is not None else None
    body = {
        "total": len(found.order),
        "pending": found.pending,
        "results": found.cards(rows),
        "cursor": following,
        "next": next_link(request, following),
    }
    return tagged(request, etag, as_json(body))


@router.get("/order", response_class=Response)
def order(request: Request, found: TheView) -> Response:
    """All matching images in order: number of the batch among those named, and index, uint32 each.

    Little-endian; 8 bytes an image. This tells a page where it is among 1,000,000 results.
    """
    etag = digest(found.version, "order")
    if is_known(request, etag):
        return tagged(request, etag, None)
    body = np.ascontiguousarray(found.pairs(found.order), "<u4").tobytes()
    answer = tagged(request, etag, body, _BINARY)
    answer.headers["X-Pending"] = str(found.pending)
    return answer


@router.get("/rows")
def rows(
    request: Request,
    found: TheView,
    desk: TheDesk,
    person: ThePerson,
    ids: Annotated[str, Query(description="batch number and index of each: 0:15,0:18,1:3")],
) -> Response:
    """Rows of these images, in this order; null for one that no longer has an outcome."""
    wanted = pairs_of(ids)
    etag = digest(found.version, ids)
    if is_known(request, etag):
        return tagged(request, etag, None)
    places = [found.row_of(batch, index) for batch, index in wanted]
    note_rows(
        desk, person, ((found.parts[batch].name, index) for batch, index in wanted if batch < len(found.parts))
    )
    cards = iter(found.cards(np.array([place for place in places if place is not None], np.intp)))
    body: list[dict[str, Any] | None] = [next(cards) if place is not None else None for place in places]
    return tagged(request, etag, as_json(body))


@router.get("/facets")
def facets(request: Request, found: TheView) -> Response:
    """How many of the matching images have which value, and how numbers are spread."""
    etag = digest(found.version, "facets")
    if is_known(request, etag):
        return tagged(request, etag, None)
    body = found.facets() | {
        "labels": found.labels,
        "columns": found.names,
        "pending": found.pending,
        "rows": found.rows,
    }
    return tagged(request, etag, as_json(body))


def _after(found: View, cursor: str) -> int:
    """The place in the order behind a cursor's result."""
    row = found.row_of(*read_cursor(cursor, found.fingerprint))
    places = [] if row is None else np.flatnonzero(found.order == row).tolist()
    if not places:
        raise Problem(
            410,
            "results_changed",
            "the result that this cursor continues from no longer matches: begin again without one",
        )
    return int(places[0]) + 1


def pairs_of(text: str) -> list[tuple[int, int]]:
    """Number of the batch and index of each of these images.

    Raises:
        Problem: 400 if it is malformed, or there are too many.
    """
    try:
        found = [(int(batch), int(index)) for batch, index in (one.split(":") for one in text.split(",") if one)]
    except ValueError as error:
        at = {"in": "query", "parameter": "ids"}
        raise Problem(400, "usage", "write ids as batch number and index: 0:15,0:18", at=at) from error
    if len(found) > _MOST_ROWS:
        raise Problem(400, "usage", f"ask for at most {_MOST_ROWS} rows")
    return found
