"""The door: what every request goes through before anything else sees it.

It refuses other hosts (a page of strangers whose name was made to lead here, "DNS rebinding"), finds out who
asks, asks what changes something for the token that only our own pages have, and gives every answer the headers
that bind a browser to this server alone.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
from dataclasses import replace
from functools import partial
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote, urlencode

import structlog
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dermbatch import metrics
from dermbatch.errors import DermbatchError
from dermbatch.records.access import Role
from dermbatch.records.asked import NAME
from dermbatch.settings import DeskSettings
from desk.desk import Person
from desk.door.sessions import Sessions
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
_OPEN = ("/health", "/enter", "/static/")


def cookie_name(port: int) -> str:
    """Of the session: browsers send a host's cookies to all its ports, so each desk has a name of its own."""
    return f"dermbatch-desk-{port}"


class Door:
    """ASGI middleware.

    Args:
        app: What lies behind.
        settings: Who may.
        sessions: Who is there.
        page: Shows people what is refused.
    """

    def __init__(self, app: ASGIApp, settings: DeskSettings, sessions: Sessions, page: Page) -> None:
        self._app, self._settings, self._sessions, self._page = app, settings, sessions, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sending = _Sending(send, kind_of(scope["path"]))
        try:
            await (await self._refused(scope) or self._app)(scope, receive, sending)
        except Exception:  # else it is answered outside of this door: uncounted, without the headers that bind
            if sending.began:
                raise
            _log.exception("a request failed")
            problem = Problem(500, "internal", "the desk has failed at this; its log says at what")
            await answer(problem, Headers(scope=scope), self._page)(scope, receive, sending)

    async def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        path = scope["path"]
        try:
            if path != "/health":  # probes come by addresses
                self._check_host(headers)
            if path.startswith(_OPEN):
                return None
            person = await run_in_threadpool(self._who, headers, scope)
            if person is None:
                return self._entrance(path, scope, headers)
            _check_origin(headers, person, scope["method"])
        except Problem as problem:
            return answer(problem, headers, self._page)
        except DermbatchError as error:
            return answer(of_error(error), headers, self._page)
        state = scope.setdefault("state", {})
        state["person"], state["holds"] = person, partial(self._holds, headers)
        return None

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name not in _LOOPBACK and name not in {one.lower() for one in self._settings.hosts}:
            raise Problem(
                421, "wrong_host", f"nothing is served here for the name {name!r} (DERMBATCH_DESK__HOSTS)"
            )

    def _who(self, headers: Headers, scope: Scope) -> Person | None:
        if self._settings.user_header is not None:
            name = _named(headers.getlist(self._settings.user_header))
            if name is None or not self._is_proxy(scope):
                return None
            person = Person(name, "", frozenset(Role), self._tenant(headers))
            return replace(person, csrf=self._sessions.csrf(f"user {person.key}"))
        session = _cookie(headers, cookie_name(self._settings.listen_port))
        found = self._sessions.who(session) if session else None
        if found is None or session is None:
            return None
        return Person(found, self._sessions.csrf(session), frozenset(Role))

    def _tenant(self, headers: Headers) -> str | None:
        """Whose batches the proxy says that they may see; none: all, where it is not asked."""
        if self._settings.tenant_header is None:
            return None
        said = _named(headers.getlist(self._settings.tenant_header))
        if said is None or NAME.fullmatch(said) is None:
            raise Problem(403, "no_tenant", "whoever signs you in does not say of which tenant you are")
        return said

    def _holds(self, headers: Headers) -> bool:
        """Whether a session goes on, which this does not prolong; a proxy vouches once for all."""
        if self._settings.user_header is not None:
            return True
        session = _cookie(headers, cookie_name(self._settings.listen_port))
        return session is not None and self._sessions.holds(session)

    def _entrance(self, path: str, scope: Scope, headers: Headers) -> Response:
        """Where people get in, who come back from there to where they were going; programs are told."""
        if path.startswith(("/v1/", "/dicom-web/")) or path in {"/openapi.json", "/v1"}:
            said = "open the link that `dermbatch desk` prints, or sign in at the proxy"
            return answer(Problem(401, "unauthorized", said), headers, self._page)
        asked = scope.get("query_string", b"").decode("latin-1")
        wanted = f"{quote(path)}?{asked}" if asked else quote(path)
        return RedirectResponse("/enter" if path == "/" else f"/enter?{urlencode({'next': wanted})}", 303)

    def _is_proxy(self, scope: Scope) -> bool:
        address = ipaddress.ip_address((scope.get("client") or ("0.0.0.0",))[0])  # noqa: S104 - nobody's
        return any(address in network for network in self._settings.proxies)


def _cookie(headers: Headers, name: str) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return None if found is None else found.value


def _named(said: list[str]) -> str | None:
    """The name that a proxy states: once, in UTF-8 as most do, else in Latin 1 as headers are by themselves.

    A second header of the name, or an empty one, is none of a proxy that takes away what comes from outside.
    """
    if len(said) != 1 or not said[0].strip():
        return None
    try:
        return said[0].encode("latin-1").decode()
    except UnicodeError:
        return said[0]


def _check_origin(headers: Headers, person: Person, method: str) -> None:
    if method in _SAFE:
        return
    if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise Problem(403, "csrf", "another site has sent this")
    if not hmac.compare_digest(headers.get(CSRF, "").encode(), person.csrf.encode()):
        raise Problem(403, "csrf", f"the header {CSRF} is missing or of an earlier session: load the page anew")


def kind_of(path: str) -> str:
    """What kind of request it is, for metrics: one of a few, whatever is asked."""
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
    """Sends an answer on with the headers that every one has, and counts it."""

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
