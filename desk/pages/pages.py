"""The pages, rendered by the server; their scripts ask the API for what changes."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import datetime
from functools import cache
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from dermbatch import __version__, layout
from dermbatch.errors import ObjectNotFound
from dermbatch.records.outcome import ResultRecord
from dermbatch.stages import ORDER
from dermbatch.store import ObjectStore
from dermbatch.stored import read
from desk.api.models import all_models, canaries_of, comparisons
from desk.desk import Person, TheDesk, ThePerson, TheStore
from desk.pages.structured import content
from desk.problems import Problem, title
from desk.results.comparisons import A_PAGE, Order, compared
from orchestrator.batches.entries import named
from orchestrator.metering.overview import overview as used
from orchestrator.reporting.overview import overview
from orchestrator.similar.answer import MOST

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

_OURS = r"/(?![/\\])[^\\\x00-\x1f]*"
"""Addresses on this server: any other beginning may lead elsewhere."""

_markdown = MarkdownIt("commonmark", {"html": False}).enable("table")


@router.get("/")
def home() -> RedirectResponse:
    """Where one begins."""
    return RedirectResponse("/batches", 303)


@router.get("/batches")
def batches(
    desk: TheDesk, store: TheStore, person: ThePerson, everything: Annotated[bool, Query(alias="all")] = False
) -> HTMLResponse:
    """How batches stand, and new ones."""
    return page_of(
        "batches.html",
        person,
        shown=overview(store, desk.ledger, everything=everything, tenant=person.tenant),
        stages=ORDER,
    )


@router.get("/gallery")
def gallery(
    store: TheStore, desk: TheDesk, person: ThePerson, batch: Annotated[list[str] | None, Query()] = None
) -> HTMLResponse:
    """Results of a batch, or several."""
    names = [named(store, name).name for name in batch or ()]
    known = [one.name for one in overview(store, desk.ledger, tenant=person.tenant).batches]
    return page_of("gallery.html", person, names=names, known=known)


@router.get("/image/{batch}/{index}")
def image(batch: str, index: int, store: TheStore, person: ThePerson) -> HTMLResponse:
    """One image."""
    return page_of("image.html", person, batch=named(store, batch), index=index)


@router.get("/similar/{batch}/{index}")
def similar(batch: str, index: int, store: TheStore, person: ThePerson) -> HTMLResponse:
    """Cases like one image."""
    found = _result(store, batch, index)
    return page_of("similar.html", person, found=found, most=MOST)


@router.get("/models")
def models(desk: TheDesk, store: TheStore, person: ThePerson) -> HTMLResponse:
    """Models, canaries, comparisons."""
    found, problem = all_models(desk.settings)
    names = [one.name for one in overview(store, desk.ledger, tenant=person.tenant).batches]
    compared = comparisons(store, names)
    return page_of(
        "models.html",
        person,
        models=found,
        problem=problem,
        canaries=canaries_of(store, person),
        compared=compared,
    )


@router.get("/usage")
def usage(desk: TheDesk, store: TheStore, person: ThePerson) -> HTMLResponse:
    """What tenants used, and what it comes to."""
    return page_of("usage.html", person, found=used(store, desk.settings.metering.prices, person.tenant))


@router.get("/comparison/{batch}")
def comparison(
    batch: str,
    store: TheStore,
    person: ThePerson,
    order: Order = "dice",
    start: Annotated[int, Query(ge=0)] = 0,
    truth: str = "",
) -> HTMLResponse:
    """What a re-segmented batch has in common with the earlier one, image by image."""
    asked = named(store, batch)
    found = compared(store, batch, order, start, truth or None)
    return page_of(
        "comparison.html",
        person,
        batch=batch,
        earlier=asked.order.compared_with,
        found=found,
        order=order,
        truth=truth,
        a_page=A_PAGE,
    )


@router.get("/image/{batch}/{index}/report")
def report(batch: str, index: int, store: TheStore, person: ThePerson) -> HTMLResponse:
    """The structured report of an image, to be read."""
    found = _result(store, batch, index)
    key = found.dicom.get("report")
    if key is None:
        raise Problem(404, "no_dicom", "there is no structured report of this image")
    items = content(store.get(store.bucket, key))
    return page_of("report.html", person, batch=batch, index=index, name=found.name, items=items)


def is_ours(address: str) -> bool:
    """Whether an address is on this server and leads nowhere else."""
    return re.fullmatch(_OURS, address) is not None


def entrance(used: bool, proxied: bool, issuer: str | None, onward: str) -> HTMLResponse:
    """How to get in, and on to the page that was asked for.

    Args:
        used: Whether a link was used that no longer opens anything.
        proxied: Whether a proxy lets people in.
        issuer: Where people sign on; none if they cannot.
        onward: The page's address; shown if it is on this server.
    """
    onward = onward if is_ours(onward) else ""
    shown = {"used": used, "proxied": proxied, "issuer": issuer, "onward": onward}
    return page_of("enter.html", None, 403 if used else 200, **shown)


def wrong(problem: Problem, person: Any) -> HTMLResponse:
    """What is wrong, for people."""
    fields = {"what": title(problem), "status": problem.status, "detail": problem.detail, "reason": problem.reason}
    found = page_of("problem.html", person, problem.status, **fields)
    found.headers.update(problem.headers or {})
    return found


@cache
def environment() -> Environment:
    """The templates that pages are made from; what they show is escaped."""
    found = Environment(loader=PackageLoader("desk.pages"), autoescape=True, undefined=StrictUndefined)
    found.filters["count"] = lambda number: f"{number:,}"
    found.filters["words"] = lambda code: str(code).replace("_", " ")
    found.filters["moment"] = _moment
    found.filters["decimal"] = lambda number: f"{number:,f}"
    found.filters["time_left"] = time_left
    found.filters["markdown"] = lambda text: Markup(_markdown.render(text))  # noqa: S704 - it lets no HTML through
    found.filters["address"] = lambda text: quote(text, safe="")
    found.filters["as_json"] = lambda value: json.dumps(asdict(value), default=datetime.isoformat)
    return found


def _result(store: ObjectStore, batch: str, index: int) -> ResultRecord:
    named(store, batch)
    try:
        return read(store, layout.result(batch, index), ResultRecord)
    except ObjectNotFound as error:
        raise Problem(404, "no_result", f"image {index} of batch {batch!r} has no result") from error


def page_of(template: str, person: Person | None, code: int = 200, **shown: Any) -> HTMLResponse:
    """A page of this template, for whoever is signed in."""
    values = {"person": person, "version": __version__, "page": template.removesuffix(".html"), **shown}
    return HTMLResponse(environment().get_template(template).render(values), code)


def _moment(when: datetime | None) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC" if when is not None else "–"


def time_left(seconds: float | None) -> str:
    """For people: ``3 min``; empty if it is not known."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"
