"""The ways in, by a link or by signing on, and the way out."""

from __future__ import annotations

import secrets
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from dermbatch.settings.desk import DeskSettings
from desk.desk import Desk, TheDesk, ThePerson
from desk.door.oidc.signon import BACK, OUT, WAY_SECONDS, SignOn
from desk.door.sessions import Session
from desk.door.who import Recognition, address_of, cookie, cookie_name, is_encrypted
from desk.pages import pages
from desk.problems import Problem

router = APIRouter()

_BROWSER = "-browser"
_MOST_BYTES = 64 << 10


@router.get("/health", include_in_schema=False)
def health() -> Response:
    """Whether it serves."""
    return JSONResponse({"status": "ok"})


@router.get("/v1/session", tags=["session"])
def session(person: ThePerson) -> dict[str, object]:
    """Who is signed in, what they are, and the token that goes with what changes something."""
    return {"name": person.name, "csrf": person.csrf, "roles": sorted(person.roles), "tenant": person.tenant}


@router.post("/v1/sign-out", tags=["session"])
def sign_out(request: Request, desk: TheDesk, person: ThePerson) -> Response:
    """End the session; ``to`` is where the browser goes to end it at the issuer, too."""
    recognition = _recognition(request)
    token = cookie(request.headers, cookie_name(desk.settings.desk))
    to: str | None = None
    if person.leaves and token is not None:
        desk.store.audit.of(person.name).note("sign-out", "desk:session")
        to = recognition.sign_on.leave(token) if recognition.sign_on is not None else None
        recognition.sessions.leave(token)
    answer = JSONResponse({"to": to or "/enter"})
    _set(answer, desk.settings.desk, "", "", age=0)
    return answer


@router.get("/enter", include_in_schema=False)
def enter(
    request: Request,
    desk: TheDesk,
    link: str | None = None,
    onward: Annotated[str, Query(alias="next")] = "",
) -> Response:
    """By a link; without one, or where it opens nothing any more, how one gets in."""
    recognition = _recognition(request)
    settings = desk.settings.desk
    if link:
        address = address_of(request.headers, request.scope, settings)
        recognition.limits.check(address)
        found = recognition.sessions.enter(link)
        if found is not None:
            return _entered(request, desk, *found, onward)
        recognition.limits.refused(address)
        desk.store.audit.of("nobody", f"from {address}").note("refuse", "desk:link", outcome="bad_link")
    return pages.entrance(bool(link), settings.user_header is not None, settings.oidc.issuer, onward)


@router.get("/sign-in", include_in_schema=False)
def sign_in(request: Request, desk: TheDesk, onward: Annotated[str, Query(alias="next")] = "") -> Response:
    """To the issuer."""
    sign_on, settings = _sign_on(request), desk.settings.desk
    address = address_of(request.headers, request.scope, settings)
    _recognition(request).limits.asked(f"at {address}", "POST")
    name = cookie_name(settings, _BROWSER)
    browser = cookie(request.headers, name) or secrets.token_urlsafe(32)
    answer = RedirectResponse(sign_on.begin(browser, onward if pages.is_ours(onward) else ""), 303)
    _set(answer, settings, _BROWSER, browser, age=WAY_SECONDS)
    return answer


@router.get(BACK, include_in_schema=False)
def signed_in(request: Request, desk: TheDesk) -> Response:
    """Back from the issuer."""
    sign_on, settings = _sign_on(request), desk.settings.desk
    limits, address = _recognition(request).limits, address_of(request.headers, request.scope, settings)
    browser = cookie(request.headers, cookie_name(settings, _BROWSER)) or ""
    try:
        way = sign_on.finish(browser, dict(request.query_params))
    except Problem as problem:
        if problem.status < 500:
            limits.refused(address)
            note = desk.store.audit.of(problem.who or "nobody", f"from {address}").note
            note("refuse", "desk:sign-in", outcome=problem.reason)
        raise
    return _entered(request, desk, way.token, way.session, way.onward)


@router.post(OUT, include_in_schema=False)
async def signed_out(request: Request, desk: TheDesk) -> Response:
    """The issuer says, by a token that it has signed, whose session it has ended."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_BYTES:
            raise Problem(413, "too_large", f"a logout token has at most {_MOST_BYTES} bytes")
    token = parse_qs(body.decode("ascii", "replace")).get("logout_token", [""])[0]
    return await run_in_threadpool(_signed_out, request, desk, token)


def _signed_out(request: Request, desk: Desk, token: str) -> Response:
    sign_on, limits = _sign_on(request), _recognition(request).limits
    address = address_of(request.headers, request.scope, desk.settings.desk)
    limits.check(address)
    try:
        ended = sign_on.put_out(token)
    except Problem as problem:
        if problem.status < 500:
            limits.refused(address)
            desk.store.audit.of("nobody", f"from {address}").note(
                "refuse", "desk:signed-out", outcome=problem.reason
            )
            raise Problem(400, problem.reason, problem.detail) from problem  # Back-Channel Logout, 2.8
        raise
    desk.store.audit.of("issuer", f"from {address}").note("sign-out", "desk:session", to=f"{ended} sessions")
    return Response(headers={"cache-control": "no-store"})


def _entered(request: Request, desk: TheDesk, token: str, session: Session, onward: str) -> Response:
    """Into the desk, by a session that is new; one that this browser had before is ended."""
    settings, sessions = desk.settings.desk, _recognition(request).sessions
    address = address_of(request.headers, request.scope, settings)
    desk.store.audit.of(session.name, f"from {address}").note(
        "sign-in", "desk:session", to=" ".join(sorted(session.roles))
    )
    before = cookie(request.headers, cookie_name(settings))
    if before is not None:
        sessions.leave(before)
    sessions.keep(token, session)
    answer = RedirectResponse(onward if pages.is_ours(onward) else "/batches", 303)
    _set(answer, settings, "", token)
    return answer


def _set(answer: Response, settings: DeskSettings, what: str, value: str, age: int | None = None) -> None:
    answer.set_cookie(
        cookie_name(settings, what),
        value,
        max_age=age,
        httponly=True,
        samesite="lax",
        path="/",
        secure=is_encrypted(settings),
    )


def _recognition(request: Request) -> Recognition:
    found: Recognition = request.app.state.recognition
    return found


def _sign_on(request: Request) -> SignOn:
    found = _recognition(request).sign_on
    if found is None:
        raise Problem(404, "not_found", "nobody signs on here: DERMBATCH_DESK__OIDC__ISSUER is not set")
    return found
