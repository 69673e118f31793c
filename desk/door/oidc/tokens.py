"""Tokens signed by an issuer: ID tokens of people, access tokens of programs, logout tokens.

A token has no say in how it is checked: algorithms come from the settings, all of them with public keys, and keys
are those that the issuer itself publishes.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from typing import Any

from joserfc import jwt
from joserfc.errors import ExpiredTokenError, InvalidKeyIdError, JoseError
from joserfc.jws import extract_compact

from desk.door.oidc.issuer import Issuer
from desk.problems import Problem

Claims = dict[str, Any]

_LOGOUT = "http://schemas.openid.net/event/backchannel-logout"
_HASH = {"256": "sha256", "384": "sha384", "512": "sha512", "519": "sha512"}


def id_token(issuer: Issuer, token: str, *, nonce: str | None, access_token: str | None = None) -> Claims:
    """What an ID token says (OpenID Connect Core 1.0, 3.1.3.7).

    Args:
        issuer: Who is to have signed it.
        token: The token.
        nonce: The nonce that it must have; none if it comes with a refresh, which needs none (12.2).
        access_token: That came with it.

    Raises:
        Problem: 401 if it cannot be trusted, 503 if the issuer does not state its keys.
    """
    client = str(issuer.settings.client_id)
    header, claims = _checked(issuer, token, client)
    authorized = claims.get("azp")
    audience = claims["aud"]
    if authorized != client and (authorized is not None or (isinstance(audience, list) and len(audience) > 1)):
        raise _bad("azp")
    if nonce is not None and not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        raise _bad("nonce")
    stated = claims.get("at_hash")
    if stated is not None and access_token is not None and stated != _half(header["alg"], access_token):
        raise _bad("at_hash")
    return claims


def access_token(issuer: Issuer, token: str) -> Claims:
    """What an access token for this API says (RFC 9068, 4).

    Raises:
        Problem: 401 if it cannot be trusted, 503 if the issuer does not state its keys.
    """
    header, claims = _checked(issuer, token, str(issuer.settings.audience))
    kind = str(header.get("typ", "JWT")).lower().removeprefix("application/")
    if kind not in {one.lower() for one in issuer.settings.token_types}:
        raise _bad("typ")
    if "nonce" in claims or "at_hash" in claims:  # an ID token, which does not authorize requests
        raise _bad("typ")
    return claims


def logout_token(issuer: Issuer, token: str) -> Claims:
    """What a logout token says (OpenID Connect Back-Channel Logout 1.0, 2.4 and 2.6): ``sid``, ``sub`` or both.

    Raises:
        Problem: 401 if it cannot be trusted, 503 if the issuer does not state its keys.
    """
    header, claims = _checked(issuer, token, str(issuer.settings.client_id), essential=("iat", "jti"))
    if str(header.get("typ", "JWT")).lower().removeprefix("application/") not in {"logout+jwt", "jwt"}:
        raise _bad("typ")
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(_LOGOUT), dict):
        raise _bad("events")
    if "nonce" in claims:  # an ID token, which must not sign anybody out
        raise _bad("nonce")
    if not any(isinstance(claims.get(name), str) and claims[name] for name in ("sid", "sub")):
        raise _bad("sub")
    return claims


def _checked(
    issuer: Issuer, token: str, audience: str, essential: tuple[str, ...] = ("sub",)
) -> tuple[dict[str, Any], Claims]:
    settings = issuer.settings
    try:
        kid = extract_compact(token.encode()).headers().get("kid")
        found = jwt.decode(
            token, issuer.keys(kid if isinstance(kid, str) else None), algorithms=settings.algorithms
        )
        asked = jwt.JWTClaimsRegistry(
            leeway=round(settings.leeway),
            iss={"essential": True, "value": str(settings.issuer)},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
        )
        asked.validate(found.claims)
        if missing := [name for name in essential if not found.claims.get(name)]:
            raise _bad(missing[0])
    except ExpiredTokenError as error:
        raise _problem("the token has expired") from error
    except InvalidKeyIdError as error:
        raise _bad("kid") from error
    except (JoseError, ValueError, TypeError, UnicodeError) as error:
        raise _problem(f"the token is not valid: {str(error)[:100]}") from error
    return dict(found.header), found.claims


def _half(algorithm: str, access_token: str) -> str:
    """Left half of the digest of an access token (OpenID Connect Core 1.0, 3.1.3.6)."""
    whole = hashlib.new(_HASH[algorithm[-3:]], access_token.encode()).digest()
    return urlsafe_b64encode(whole[: len(whole) // 2]).decode().rstrip("=")


def _bad(what: str) -> Problem:
    return _problem(f"the token is not valid: its {what} is wrong")


def _problem(detail: str) -> Problem:
    return Problem(401, "bad_token", detail)
