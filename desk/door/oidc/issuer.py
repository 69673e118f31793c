"""One issuer: its addresses and signing keys, as it publishes them (OpenID Connect Discovery 1.0)."""

from __future__ import annotations

import ssl
import threading
import time
from typing import Any, cast
from urllib.parse import quote_plus, urlsplit

import httpx
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from dermbatch.settings.desk import OidcSettings
from desk.problems import Problem

_log = structlog.get_logger(__name__)

_HOLDS = 3600
_ANEW_AFTER = 10
_AWAY = 2
_SIGNING = {"RSA", "EC", "OKP"}


def away(what: str) -> Problem:
    """The issuer does not answer: what it vouched for earlier still holds."""
    detail = f"the issuer of your sign-on does not answer ({what}): try again; nothing that you did is lost"
    return Problem(503, "issuer_unavailable", detail, headers={"Retry-After": "5"})


class IssuerRefused(Exception):
    """The issuer refused.

    Args:
        error: Its code (RFC 6749, 5.2).
    """

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


class Issuer:
    """Talks to one issuer. Every method raises ``Problem`` 503 if it does not answer.

    What it publishes holds for an hour, and longer while it is away. An unknown key makes us fetch its keys again,
    but at most once in ten seconds: forged tokens must not make us ask without end.

    Args:
        settings: Which.
    """

    def __init__(self, settings: OidcSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._http: httpx.Client | None = None
        self._metadata: dict[str, Any] | None = None
        self._metadata_at = 0.0
        self._keys: KeySet | None = None
        self._keys_at = 0.0
        self._away_until = 0.0

    def endpoint(self, name: str) -> str | None:
        """An address that it publishes, if it has one of this kind."""
        with self._lock:
            if self._metadata is None or time.monotonic() - self._metadata_at > _HOLDS:
                self._metadata = self._discovered(self._metadata)
                self._metadata_at = time.monotonic()
            found = self._metadata.get(name)
        return found if isinstance(found, str) and self._is_address(found) else None

    def keys(self, kid: str | None) -> KeySet:
        """The keys that it signs with; fetched again if one of this name is not among them."""
        address = self.endpoint("jwks_uri")
        with self._lock:
            age = time.monotonic() - self._keys_at
            is_known = self._keys is not None and (kid is None or any(one.kid == kid for one in self._keys.keys))
            if self._keys is None or age > _HOLDS or (not is_known and age > _ANEW_AFTER):
                self._keys = self._fetched(str(address), self._keys)
                self._keys_at = time.monotonic()
            return self._keys

    def token(self, **asked: str) -> dict[str, Any]:
        """What the token endpoint answers (RFC 6749, 5).

        Raises:
            Refused: If it refuses.
        """
        answer = self._send(
            "POST", str(self.endpoint("token_endpoint")), data=self._named(asked), auth=self._basic()
        )
        body = _json(answer)
        if answer.status_code >= 500 or answer.status_code == 429:
            raise away(f"HTTP {answer.status_code}")
        if answer.status_code != 200 or "error" in body:
            raise IssuerRefused(str(body.get("error", f"HTTP {answer.status_code}")))
        return body

    def userinfo(self, access_token: str) -> dict[str, Any]:
        """What it says about somebody (OpenID Connect Core 1.0, 5.3); nothing if it refuses."""
        address = self.endpoint("userinfo_endpoint")
        if address is None:
            return {}
        answer = self._send("GET", address, headers={"authorization": f"Bearer {access_token}"})
        if answer.status_code >= 500:
            raise away(f"HTTP {answer.status_code}")
        return _json(answer) if answer.status_code == 200 else {}

    def revoke(self, token: str) -> None:
        """Invalidate a refresh token (RFC 7009), if the issuer supports it."""
        address = self.endpoint("revocation_endpoint")
        if address is not None:
            self._send("POST", address, data=self._named({"token": token}), auth=self._basic())

    def close(self) -> None:
        """Close its connections."""
        if self._http is not None:
            self._http.close()

    def _named(self, asked: dict[str, str]) -> dict[str, str]:
        secret, by_post = self.settings.client_secret, self.settings.client_auth == "client_secret_post"
        named = {**asked, "client_id": str(self.settings.client_id)} if secret is None or by_post else asked
        return {**named, "client_secret": secret.get_secret_value()} if secret is not None and by_post else named

    def _basic(self) -> httpx.BasicAuth | None:
        secret = self.settings.client_secret
        if secret is None or self.settings.client_auth == "client_secret_post":
            return None
        # Encoded first: RFC 6749, 2.3.1.
        return httpx.BasicAuth(quote_plus(str(self.settings.client_id)), quote_plus(secret.get_secret_value()))

    def _discovered(self, before: dict[str, Any] | None) -> dict[str, Any]:
        issuer = str(self.settings.issuer)
        try:
            answer = self._send("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            if answer.status_code != 200:
                raise away(f"HTTP {answer.status_code}")
        except Problem:
            if before is None:
                raise
            _log.warning("the issuer does not state its addresses: those that it stated before hold")
            return before
        metadata = _json(answer)
        if metadata.get("issuer") != issuer:
            raise away("its documents name another issuer than DERMBATCH_DESK__OIDC__ISSUER")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not self._is_address(str(metadata.get(name))):
                raise away(f"its {name} is not a usable address")
        return metadata

    def _is_address(self, text: str) -> bool:
        return urlsplit(text).scheme in {"https", urlsplit(str(self.settings.issuer)).scheme}

    def _fetched(self, address: str, before: KeySet | None) -> KeySet:
        try:
            answer = self._send("GET", address)
            if answer.status_code != 200:
                raise away(f"HTTP {answer.status_code}")
            found = [one for one in _json(answer).get("keys", []) if one.get("kty") in _SIGNING]
            return KeySet.import_key_set({"keys": [one for one in found if one.get("use", "sig") == "sig"]})
        except (Problem, JoseError, ValueError, TypeError, AttributeError) as error:
            if before is None:
                raise away("its keys are not valid") from error
            _log.warning("the issuer does not state its keys: those that it stated before hold")
            return before

    def _send(self, method: str, address: str, **request: Any) -> httpx.Response:
        if self._http is None:
            trusted = self.settings.ca_file
            self._http = httpx.Client(
                timeout=self.settings.timeout,
                verify=True if trusted is None else ssl.create_default_context(cafile=trusted),
            )
        if time.monotonic() < self._away_until:  # otherwise everybody would wait for it, one after another
            raise away("it did not answer a moment ago")
        try:
            return self._http.request(method, address, **request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._away_until = time.monotonic() + _AWAY
            raise away(type(error).__name__) from error


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return cast("dict[str, Any]", body) if isinstance(body, dict) else {}
