"""The door: what every request goes through before anything else sees it.

It refuses other host names (foreign pages whose name was made to lead here, "DNS rebinding"), finds out who asks
and whether they may, demands with every change the token that only our own pages have, and gives every answer the
headers that confine a browser to this server.
"""

from __future__ import annotations

import hmac
import time
from functools import partial
from urllib.parse import quote, urlencode, urlsplit

import structlog
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dermbatch import metrics
from dermbatch.errors import DermbatchError
from dermbatch.settings.desk import DeskSettings
from desk.desk import Person
from desk.door.rights import Right, Rights, check
from desk.door.who import Recognition
from desk.problems import Page, Problem, answer, of_error

_log = structlog.get_logger(__name__)

CSRF = "x-csrf-token"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
_SAFE = {"GET", "HEAD", "OPTIONS"}
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}


class Door:
    """ASGI middleware.

    Args:
        app: What lies behind.
        settings: Settings with the names by which it is reached.
        recognition: Who asks.
        page: Shows people what is refused.
    """

    def __init__(self, app: ASGIApp, settings: DeskSettings, recognition: Recognition, page: Page) -> None:
        self._app, self._recognition, self._page = app, recognition, page
        own = urlsplit(settings.url).hostname if settings.url is not None else None
        self._names = {*_LOOPBACK, *(one.lower() for one in settings.hosts), *([own.lower()] if own else [])}
        self._rights: Rights | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] == "websocket":  # there are none, as nothing would check who opens them
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sending = _Sending(send, kind_of(scope["path"]))
        try:
            await (await self._refused(scope) or self._app)(scope, receive, sending)
        except (
            Exception
        ):  # otherwise it would be answered outside this door: uncounted, and without the confining headers
            if sending.began:
                raise
            _log.exception("a request failed")
            problem = Problem(500, "internal", "the desk has failed at this request; its log says why")
            await answer(problem, Headers(scope=scope), self._page)(scope, receive, sending)

    async def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        path = scope["path"]
        try:
            if path != "/health":  # probes come by addresses
                self._check_host(headers)
            right = self._right(scope)
            if right is not None and right.is_open:
                return None
            person = await run_in_threadpool(self._let, headers, scope, right)
            if person is None:
                return self._entrance(path, scope, headers)
        except Problem as problem:
            return answer(problem, headers, self._page)
        except DermbatchError as error:
            return answer(of_error(error), headers, self._page)
        state = scope.setdefault("state", {})
        state["person"], state["holds"] = person, partial(self._holds, headers, scope, right)
        return None

    def _right(self, scope: Scope) -> Right | None:
        if self._rights is None:
            self._rights = Rights(scope["app"].routes)
        return self._rights.of(scope["method"], scope["path"])

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name not in self._names:
            raise Problem(
                421, "wrong_host", f"nothing is served here for the name {name!r} (DERMBATCH_DESK__HOSTS)"
            )

    def _let(self, headers: Headers, scope: Scope, right: Right | None) -> Person | None:
        """Who asks, if they may ask this; nobody if nothing says who."""
        person = self._recognition.who(headers, scope)
        if person is None:
            return None
        _check_origin(headers, person, scope["method"])
        self._recognition.limits.asked(person.key, scope["method"])
        if right is not None:
            try:
                check(person, right.roles)
            except Problem as problem:
                what = f"desk:{scope['method']} {scope['path']}"
                self._recognition.audit.of(person.name).note("refuse", what, outcome=problem.reason)
                raise
        return person

    def _holds(self, headers: Headers, scope: Scope, right: Right | None) -> bool:
        """Whether whoever asked may go on; this does not prolong their session."""
        try:
            person = self._recognition.who(headers, scope, use=False)
        except Problem as problem:
            return problem.status >= 500
        return person is not None and (right is None or person.may(*right.roles))

    def _entrance(self, path: str, scope: Scope, headers: Headers) -> Response:
        """Send people to the entrance, from which they return to where they were going; tell programs."""
        if path.startswith(("/v1/", "/dicom-web/")) or path in {"/openapi.json", "/v1"}:
            detail = "sign in, bring a key, or open the link that `dermbatch desk` prints"
            shown = {"WWW-Authenticate": 'Bearer realm="dermbatch"'}
            return answer(Problem(401, "unauthorized", detail, headers=shown), headers, self._page)
        asked = scope.get("query_string", b"").decode("latin-1")
        wanted = f"{quote(path)}?{asked}" if asked else quote(path)
        return RedirectResponse("/enter" if path == "/" else f"/enter?{urlencode({'next': wanted})}", 303)


def _check_origin(headers: Headers, person: Person, method: str) -> None:
    if method in _SAFE or not person.csrf:
        return
    if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise Problem(403, "csrf", "this request comes from another site; use the pages of the desk")
    if not hmac.compare_digest(headers.get(CSRF, "").encode(), person.csrf.encode()):
        raise Problem(403, "csrf", f"the header {CSRF} is missing or from an earlier session: reload the page")


def kind_of(path: str) -> str:
    """The kind of a request, for metrics: one of a few, whatever is requested."""
    if path.startswith("/static/"):
        return "static"
    if path.startswith("/v1/exports/"):
        return "exports"
    if path.endswith("/events"):
        return "events"
    if "/images/" in path or path.startswith("/dicom-web/"):
        return "pictures"
    return "api" if path.startswith("/v1/") else "pages"


class _Sending:
    """Sends an answer with the headers that all answers have, and counts it."""

    def __init__(self, send: Send, kind: str) -> None:
        self._send, self._kind, self._asked = send, kind, time.monotonic()
        self.began = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.began = True
            metrics.DESK_REQUESTS.labels(self._kind, f"{message['status'] // 100}xx").inc()
            metrics.DESK_SECONDS.labels(self._kind).observe(time.monotonic() - self._asked)
            headers = MutableHeaders(scope=message)
            if self._kind == "static":
                headers.setdefault("cache-control", "no-cache")
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)
