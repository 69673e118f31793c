"""Who asks: by a key or a token that a program brings, by what a proxy says, or by a session."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.types import Scope

from dermbatch.audit import Audit
from dermbatch.records.access import Role
from dermbatch.records.asked import NAME
from dermbatch.settings.desk import DeskSettings
from desk.desk import Person
from desk.door.keys import PREFIX, Keys
from desk.door.limits import RateLimits
from desk.door.oidc.claims import roles_of
from desk.door.oidc.signon import SignOn
from desk.door.sessions import Session, Sessions
from desk.problems import Problem

_BEARER = "bearer "


@dataclass(frozen=True)
class Recognition:
    """Recognises who asks.

    Args:
        settings: Whom to believe.
        sessions: Who is there.
        keys: Keys of programs.
        sign_on: The issuer's people; none where nobody signs on.
        limits: What is too much.
        audit: Where it is noted who was refused.
    """

    settings: DeskSettings
    sessions: Sessions
    keys: Keys
    sign_on: SignOn | None
    limits: RateLimits
    audit: Audit

    def who(self, headers: Headers, scope: Scope, *, use: bool = True) -> Person | None:
        """Who asks; nobody if nothing says so.

        A key or token decides who asks, whatever else the request has.

        Args:
            headers: Headers of the request.
            scope: Scope of the request.
            use: Whether a session is prolonged by it.

        Raises:
            Problem: 401 if a key or token is not valid, 403 if somebody has no role, 429 if too much from one
                address was refused, 503 if the issuer is asked and does not answer.
        """
        header = headers.get("authorization", "")
        brought = header[len(_BEARER) :].strip() if header.lower().startswith(_BEARER) else ""
        if brought.startswith(PREFIX) or (brought and self.settings.oidc.audience is not None):
            return self._program(brought, address_of(headers, scope, self.settings))
        if self.settings.user_header is not None:
            return self._proxied(headers, scope)
        token = cookie(headers, cookie_name(self.settings))
        session = self.sessions.who(token, use=use) if token else None
        if token is None or session is None:
            return None
        held = session if self.sign_on is None else self.sign_on.held(token, session)
        return None if held is None else self._in(token, held)

    def _in(self, token: str, session: Session) -> Person | None:
        if (
            session.granted is not None and self.sign_on is None
        ):  # an issuer that is no longer configured vouches for nobody
            return None
        return Person(session.name, self.sessions.csrf(token), session.roles, session.tenant, leaves=True)

    def _program(self, brought: str, address: str) -> Person:
        self.limits.check(address)
        try:
            if brought.startswith(PREFIX):
                key = self.keys.find(brought)
                return Person(f"key:{key.name}", "", frozenset(key.roles), key.tenant)
            assert self.sign_on is not None  # noqa: S101 - an audience needs an issuer
            name, roles, tenant = self.sign_on.bearer(brought)
        except Problem as problem:
            if problem.status == 401:
                problem.headers = {"WWW-Authenticate": 'Bearer realm="dermbatch", error="invalid_token"'}
            if problem.status < 500:
                self.limits.refused(address)
                self.audit.of("nobody", f"from {address}").note("refuse", "desk:token", outcome=problem.reason)
            raise
        return Person(name, "", roles, tenant)

    def _proxied(self, headers: Headers, scope: Scope) -> Person | None:
        name = _named(headers.getlist(str(self.settings.user_header)))
        if name is None or not is_proxy(scope, self.settings):
            return None
        roles: frozenset[Role] | None = frozenset(self.settings.proxied_roles)
        if self.settings.roles_header is not None:
            values = ",".join(headers.getlist(self.settings.roles_header)).split(",")
            roles = roles_of([one.strip() for one in values], self.settings.oidc)
        person = Person(name, "", roles or frozenset(), self._tenant(headers))
        return replace(person, csrf=self.sessions.csrf(f"user {person.key}"))

    def _tenant(self, headers: Headers) -> str | None:
        """The tenant whose batches they may see, according to the proxy; none, that is all, if it is not asked."""
        if self.settings.tenant_header is None:
            return None
        stated = _named(headers.getlist(self.settings.tenant_header))
        if stated is None or NAME.fullmatch(stated) is None:
            raise Problem(
                403,
                "no_tenant",
                "whoever signs you in does not say which tenant you belong to; have it set up there",
            )
        return stated


def cookie_name(settings: DeskSettings, what: str = "") -> str:
    """Name of the session cookie: browsers send a host's cookies to all ports, so each desk has its own.

    Over HTTPS a browser accepts this name only from this host, not from others of its domain.
    """
    name = f"dermbatch-desk-{settings.listen_port}{what}"
    return f"__Host-{name}" if is_encrypted(settings) else name


def is_encrypted(settings: DeskSettings) -> bool:
    """Whether browsers reach the desk over HTTPS."""
    return settings.url is not None and settings.url.startswith("https:")


def cookie(headers: Headers, name: str) -> str | None:
    """The cookie of this name that a request brings."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return None if found is None else found.value


def is_proxy(scope: Scope, settings: DeskSettings) -> bool:
    """Whether a request comes from a trusted proxy."""
    return _is_among((scope.get("client") or ("0.0.0.0",))[0], settings)  # noqa: S104 - nobody's


def address_of(headers: Headers, scope: Scope, settings: DeskSettings) -> str:
    """The address that a request comes from: the last one that is no proxy of ours (``X-Forwarded-For``)."""
    address = str((scope.get("client") or ("unknown",))[0])
    on_the_way = [one.strip() for one in ",".join(headers.getlist("x-forwarded-for")).split(",") if one.strip()]
    while on_the_way and _is_among(address, settings):
        address = on_the_way.pop()
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    return str(ipaddress.ip_network(f"{found}/64", strict=False)) if found.version == 6 else str(found)


def _is_among(address: str, settings: DeskSettings) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in settings.proxies)


def _named(values: list[str]) -> str | None:
    """The name that a proxy states: once, in UTF-8 as most do, else in Latin 1 as headers are by themselves.

    A repeated or empty header does not come from a proxy that removes such headers from outside.
    """
    if len(values) != 1 or not values[0].strip():
        return None
    try:
        return values[0].encode("latin-1").decode()
    except UnicodeError:
        return values[0]
