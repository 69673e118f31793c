"""Signing on: to the issuer and back (OpenID Connect Core 1.0, 3.1, with PKCE, RFC 7636), refresh, the way out.

What is needed when somebody returns (state, nonce, verifier, where to go) is kept in Redis and used once, so an
answer that is replayed, or sent to another browser, opens nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import structlog

from dermbatch import layout
from dermbatch.records.access import NameOwner, Role
from dermbatch.settings.desk import DeskSettings, OidcSettings
from dermbatch.store import ObjectStore
from dermbatch.stored import read, write_once
from desk.door.oidc.claims import Claimed, claimed, is_name
from desk.door.oidc.issuer import Issuer, IssuerRefused
from desk.door.oidc.tokens import Claims, access_token, id_token, logout_token
from desk.door.sessions import Granted, Session, Sessions, seal, secret_digest, unseal
from desk.problems import Problem

_log = structlog.get_logger(__name__)

BACK = "/signed-in"
"""Where the issuer sends people back to."""

WAY_SECONDS = 15 * 60
"""Seconds that somebody may take to sign on."""

OUT = "/signed-out"
"""Where the issuer says that it has ended a session."""

_SEEN = 24 * 3600.0  # that a logout token is known again, longer than any holds
_UNSAID = 300.0
_EARLY = 0.2
_PATIENCE = 0.05


@dataclass(frozen=True)
class Way:
    """Somebody returning from the issuer.

    Attributes:
        token: Of their session.
        session: Which begins once it is kept.
        onward: Where they go on.
    """

    token: str
    session: Session
    onward: str


class SignOn:
    """Signs people on through one issuer. Methods raise ``Problem`` 503 if it does not answer.

    Args:
        settings: Which, and how the desk is reached.
        sessions: Who is there.
        store: Where it is written whose a name is.
    """

    def __init__(self, settings: DeskSettings, sessions: Sessions, store: ObjectStore) -> None:
        self.issuer, self._settings, self._sessions, self._store = Issuer(settings.oidc), settings, sessions, store
        self._known: dict[str, tuple[str, str]] = {}

    @property
    def _oidc(self) -> OidcSettings:
        return self._settings.oidc

    def begin(self, browser: str, onward: str) -> str:
        """The address of the issuer at which somebody signs on.

        Args:
            browser: What only this browser will bring back.
            onward: Where they go on afterwards.
        """
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        address = self.issuer.endpoint("authorization_endpoint")
        kept = {"nonce": nonce, "verifier": verifier, "onward": onward, "browser": secret_digest(browser)}
        self._sessions.put_by("way", state, kept, WAY_SECONDS)
        asked = {
            "response_type": "code",
            "client_id": str(self._oidc.client_id),
            "redirect_uri": f"{self._settings.url}{BACK}",
            "scope": " ".join(self._oidc.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": _challenge(verifier),
            "code_challenge_method": "S256",
        }
        if "offline_access" in self._oidc.scopes:
            asked["prompt"] = "consent"  # else it is not granted: OpenID Connect Core 1.0, 11
        return f"{address}{'&' if '?' in str(address) else '?'}{urlencode(asked)}"

    def finish(self, browser: str, said_back: dict[str, str]) -> Way:
        """The session of somebody who returns.

        Args:
            browser: What the browser that set out was given.
            said_back: What the issuer sends along.

        Raises:
            Problem: 400 if they did not start here, or have returned before; 401 if the issuer refuses; 403 if it
                gives them no role.
        """
        kept = self._sessions.call_for("way", said_back.get("state", ""))
        if kept is None or not hmac.compare_digest(kept["browser"], secret_digest(browser)):
            raise Problem(
                400, "bad_state", "this answers no sign-on that began here, or it was used already; sign in again"
            )
        if said_back.get("iss", self._oidc.issuer) != self._oidc.issuer:  # RFC 9207
            raise Problem(400, "bad_state", "a different issuer has answered; sign in again")
        if "code" not in said_back:
            raise Problem(
                401, "refused_by_issuer", f"the issuer refuses: {said_back.get('error', 'it says no code')[:60]}"
            )
        try:
            given = self.issuer.token(
                grant_type="authorization_code",
                code=said_back["code"],
                redirect_uri=f"{self._settings.url}{BACK}",
                code_verifier=kept["verifier"],
            )
        except IssuerRefused as refused:
            raise Problem(401, "refused_by_issuer", f"the issuer refuses: {refused.error[:60]}") from refused
        claims = id_token(
            self.issuer,
            str(given.get("id_token", "")),
            nonce=kept["nonce"],
            access_token=given.get("access_token"),
        )
        return self._entered(given, claims, kept["onward"])

    def _entered(self, given: dict[str, Any], claims: Claims, onward: str) -> Way:
        found, source = self._roles(given, claims)
        roles = self._let_in(found, str(claims["sub"]))
        token = secrets.token_urlsafe(32)
        granted = Granted(
            str(claims["sub"]),
            source,
            self._lasts(given, claims),
            self._sessions.now() + self._oidc.longest,
            seal(token, _kept(given, {})),
            str(claims.get("sid") or ""),
        )
        return Way(token, Session(found.name, roles, found.tenant, granted, granted.lasts), onward)

    def _roles(self, given: dict[str, Any], claims: Claims) -> tuple[Claimed, str]:
        """What claims say about somebody, and which document has their roles: the ID token, else userinfo."""
        found = claimed(claims, self._oidc)
        source = "userinfo" if found.roles is None else "id_token"
        if found.is_whole or "access_token" not in given:
            return found, source
        more = self.issuer.userinfo(str(given["access_token"]))
        if more.get("sub") != claims["sub"]:  # it is about somebody else: OpenID Connect Core 1.0, 5.3.2
            return found, source
        return claimed({**more, **claims}, self._oidc), source

    def held(self, token: str, session: Session) -> Session | None:
        """A session as the issuer vouches for it now: refreshed if it has expired, or nearly; else none.

        Simultaneous requests cause one refresh: the others wait, or go on while the session is vouched for.

        Raises:
            Problem: 403 if the issuer no longer gives a role, or no longer says; 503 if it is away and the session
                has expired.
        """
        if not _is_due(session):
            return session
        if self._sessions.take("refresh", token, self._turn):
            return self._renewed(token)
        return session if _holds(session) else self._awaited(token)

    @property
    def _turn(self) -> float:
        """Seconds that a refresh may take: of several requests to the issuer."""
        return 4 * self._oidc.timeout

    def _awaited(self, token: str) -> Session | None:
        ends = time.monotonic() + self._turn
        while time.monotonic() < ends:
            time.sleep(_PATIENCE)
            session = self._sessions.who(token, use=False)
            if session is None or _holds(session):
                return session
            if self._sessions.take("refresh", token, self._turn):  # the other has failed: now it is our turn
                return self._renewed(token)
        detail = "your sign-on is being renewed: try again"
        raise Problem(503, "issuer_unavailable", detail, headers={"Retry-After": "2"})

    def _renewed(self, token: str) -> Session | None:
        """A session refreshed by the one whose turn it is, read again, as another turn may just have ended."""
        session = self._sessions.who(token, use=False)
        try:
            if session is not None and session.granted is not None and _is_due(session):
                session = self._refreshed(token, session, session.granted)
        except Problem as problem:
            self._sessions.drop("refresh", token)
            if problem.status != 503 or session is None or not _holds(session):
                raise
        else:
            self._sessions.drop("refresh", token)
        if session is not None and session.vouched is not None and _is_due(session):
            # Nobody asks again for a while, at most until its time is over.
            self._sessions.take("refresh", token, max(0.01, min(self._turn, session.vouched)))
        return session

    def _refreshed(self, token: str, session: Session, granted: Granted) -> Session | None:
        """A session with what the issuer says now; ended, and none, if it no longer vouches for it."""
        kept = unseal(token, granted.sealed)
        try:
            if (refresh := kept.get("refresh_token")) is None:
                return self._over(token, session, "no refresh token was given")
            given = self.issuer.token(grant_type="refresh_token", refresh_token=refresh)
            # At once, because the previous refresh token may be invalid already, whatever fails from here on.
            granted = replace(granted, sealed=seal(token, _kept(given, kept)))
            self._sessions.keep(token, replace(session, granted=granted, vouched=None), known=True)
            claims = self._told(given, granted)
        except IssuerRefused as refused:
            return self._over(token, session, refused.error)
        session = self._claimed_now(token, session, granted, given, claims)
        lasts = self._lasts({**kept, **given}, claims)
        session = replace(session, granted=replace(granted, lasts=lasts), vouched=lasts)
        self._sessions.keep(token, session, known=True)
        return session

    def _over(self, token: str, session: Session, why: str) -> Session | None:
        """A session with its current term, and none once that is over."""
        if _holds(session):
            return session
        _log.info("a session is no longer vouched for", reason=why)
        self._sessions.leave(token)
        return None

    def _told(self, given: dict[str, Any], granted: Granted) -> Claims | None:
        """What the ID token of a refresh says, which may bring none (12.2).

        Raises:
            Refused: If it cannot be trusted.
        """
        if "id_token" not in given:
            return None
        try:
            token, access = str(given["id_token"]), given.get("access_token")
            claims = id_token(self.issuer, token, nonce=None, access_token=access)
        except Problem as problem:
            if problem.status != 401:
                raise
            raise IssuerRefused(problem.reason) from problem
        if claims["sub"] != granted.subject:
            raise IssuerRefused("it answers with another subject")
        return claims

    def _claimed_now(
        self, token: str, session: Session, granted: Granted, given: dict[str, Any], claims: Claims | None
    ) -> Session:
        found, _ = self._roles(given, claims or {"sub": granted.subject})
        if found.roles is None and claims is None and granted.source == "id_token":
            return session  # no document came that could hold the roles: they stay the same
        if found.roles is None or not found.roles:
            self._sessions.leave(token)
            raise absent(self._oidc.roles_claim) if found.roles is None else no_role(session.name)
        return replace(session, roles=found.roles, tenant=found.tenant or session.tenant)

    def bearer(self, token: str) -> tuple[str, frozenset[Role], str | None]:
        """Name, roles and tenant of who brings an access token.

        Raises:
            Problem: 401 where it is not to be believed, 403 where it has no role.
        """
        claims = access_token(self.issuer, token)
        found = claimed(claims, self._oidc)
        return found.name, self._let_in(found, str(claims["sub"])), found.tenant

    def leave(self, token: str) -> str | None:
        """End a session here; where it is ended at the issuer, too (OpenID Connect RP-Initiated Logout 1.0)."""
        session = self._sessions.who(token)
        self._sessions.leave(token)
        if session is None or session.granted is None:
            return None
        kept = unseal(token, session.granted.sealed)
        try:
            if "refresh_token" in kept:
                self.issuer.revoke(kept["refresh_token"])
            address = self.issuer.endpoint("end_session_endpoint")
        except Problem:
            return None  # signed out here anyway
        if address is None:
            return None
        asked = {"client_id": str(self._oidc.client_id), "post_logout_redirect_uri": f"{self._settings.url}/enter"}
        hint = {"id_token_hint": kept["id_token"]} if "id_token" in kept else {}
        return f"{address}{'&' if '?' in address else '?'}{urlencode({**asked, **hint})}"

    def put_out(self, token: str) -> int:
        """End the sessions that the issuer has ended (OpenID Connect Back-Channel Logout 1.0, 2.7).

        Args:
            token: The logout token that it sent; a repeated one does not end anything begun since.

        Returns:
            How many there were.

        Raises:
            Problem: 401 where the token is not to be believed.
        """
        claims = logout_token(self.issuer, token)
        if sid := claims.get("sid"):
            return self._sessions.end_all("sid", str(sid))
        if not self._sessions.take("logout", str(claims["jti"]), _SEEN):
            return 0  # repeated: whoever has signed on since stays
        return self._sessions.end_all("sub", str(claims["sub"]))

    def _let_in(self, found: Claimed, subject: str) -> frozenset[Role]:
        """The roles of somebody whose claims are complete.

        Raises:
            Problem: 403 where it is not.
        """
        if found.roles is None:
            raise absent(self._oidc.roles_claim)
        if not found.roles:
            raise no_role(found.name)
        if self._oidc.tenant_claim is not None and found.tenant is None:
            raise absent(self._oidc.tenant_claim)
        self._own(found.name, subject)
        return found.roles

    def _lasts(self, given: dict[str, Any], claims: Claims | None) -> float:
        """Seconds for which the issuer vouches: as long as the access token is valid, else the ID token.

        Less where it can be asked again before.
        """
        try:
            lasts = float(given["expires_in"])
        except (KeyError, TypeError, ValueError):
            lasts = float(claims["exp"]) - time.time() if claims else _UNSAID
        return max(1.0, min(lasts, self._oidc.refresh) if "refresh_token" in given else lasts)

    def _own(self, name: str, subject: str) -> None:
        """Reserve a name for the first subject that has it; issuers vouch for subjects, not for names.

        Raises:
            Problem: 403 where it is another's, or none.
        """
        issuer = str(self._oidc.issuer)
        if self._known.get(name) == (issuer, subject):
            return
        if not is_name(name):
            raise Problem(
                403,
                "bad_name",
                "the issuer gives you a name that cannot be used here; ask for "
                "another DERMBATCH_DESK__OIDC__NAME_CLAIM",
            )
        known = NameOwner(name=name, issuer=issuer, subject=subject)
        key = layout.known_name(name)
        if not write_once(self._store, key, known) and read(self._store, key, NameOwner) != known:
            detail = (
                f"somebody else is {name} here: set DERMBATCH_DESK__OIDC__NAME_CLAIM to a claim that is unique"
            )
            raise Problem(403, "name_taken", detail)
        self._known[name] = (issuer, subject)


def _holds(session: Session) -> bool:
    """Whether an issuer still vouches for it."""
    return session.vouched is None or session.vouched > 0


def _is_due(session: Session) -> bool:
    """Whether the issuer is to be asked: its time is over, or nearly."""
    granted, vouched = session.granted, session.vouched
    return granted is not None and vouched is not None and vouched <= granted.lasts * _EARLY


def absent(claim: str) -> Problem:
    """The issuer does not say what must be known about somebody."""
    detail = f"the issuer says nothing of {claim!r}, which tells what you may do here: have it set up there"
    return Problem(403, "claim_missing", detail)


def no_role(name: str) -> Problem:
    """The issuer says that somebody has no role here."""
    return Problem(403, "no_role", f"{name} has no role here: ask whoever gives them out", who=name)


def _kept(given: dict[str, Any], before: dict[str, str]) -> dict[str, str]:
    now = {name: str(given[name]) for name in ("refresh_token", "id_token") if given.get(name)}
    return {**before, **now}


def _challenge(verifier: str) -> str:
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
