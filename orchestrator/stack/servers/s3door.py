"""``python -m orchestrator.stack.servers.s3door``: ministack behind a door, because ministack lets everybody in.

Whoever comes in must have this stack's own key and sign each request with it (AWS Signature Version 4, in the
header:
"Create a signed AWS API request", AWS General Reference), must name the loopback address as ``Host``, and must not
be a page in a browser. ministack's own paths (its reset wipes all objects) are closed to everybody, except for its
health page.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

KEY, SECRET = "S3DOOR_KEY", "S3DOOR_SECRET"
"""Variables with the one key pair that is let in."""

HEALTH = "/_ministack/health"

_ALGORITHM = "AWS4-HMAC-SHA256"
_HOSTS = {"127.0.0.1", "localhost", "::1"}
_SKEW = 15 * 60  # seconds, as S3 has it
_CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/(\d{8})/([\w-]+)/s3/aws4_request")
_SIGNED = re.compile(r"SignedHeaders=([a-z0-9;_-]+)")
_SIGNATURE = re.compile(r"Signature=([0-9a-f]{64})\b")
_DIGEST = re.compile(r"[0-9a-f]{64}")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class RequestDenied(Exception):
    """A request that is not let in; its text is S3's error code."""


class S3Door:
    """An ASGI application around another one, which sees only requests that are let in.

    Args:
        app: What is behind it.
        key: The access key that is let in.
        secret: Its secret.
        now: The time.
    """

    def __init__(
        self, app: App, key: str, secret: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._app, self._key, self._secret, self._now = app, key, secret, now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or pass the request on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            try:
                receive = await self._checked(scope, receive)
            except RequestDenied as refused:
                await _refuse(send, str(refused))
            else:
                await self._app(scope, receive, send)
        # Anything else is a websocket, which S3 does not have: returning closes it unanswered.

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        headers: Headers = scope["headers"]
        check_caller(scope["method"], headers)
        if scope["path"] == HEALTH and scope["method"] in {"GET", "HEAD"}:
            return receive
        if scope["path"].startswith("/_") or scope["path"] == "/health":
            raise RequestDenied("AccessDenied")
        payload = self.check_signature(scope["method"], scope["raw_path"], scope["query_string"], headers)
        return await _whole(receive, payload) if _DIGEST.fullmatch(payload) else receive

    def check_signature(self, method: str, path: bytes, query: bytes, headers: Headers) -> str:
        """The digest of the body that the request's signature stands for (or what stands in its place).

        Raises:
            Refused: If it is not signed, not with this key, not for this request, or not now.
        """
        header = _only(headers, b"authorization")
        credential, signed, given = (found.search(header) for found in (_CREDENTIAL, _SIGNED, _SIGNATURE))
        if not header.startswith(_ALGORITHM) or credential is None or signed is None or given is None:
            raise RequestDenied("AccessDenied")
        key, day, region = credential.groups()
        if not hmac.compare_digest(key, self._key):
            raise RequestDenied("InvalidAccessKeyId")
        names = signed[1].split(";")
        at, payload = _only(headers, b"x-amz-date"), _only(headers, b"x-amz-content-sha256")
        ours = {name.decode() for name, _ in headers if name.startswith(b"x-amz-")}
        if not {"host", "x-amz-date", *ours} <= set(names):
            raise RequestDenied("AccessDenied")
        self._check_time(at, day)
        request = canonical(method, path, query, headers, names, payload)
        text = f"{_ALGORITHM}\n{at}\n{day}/{region}/s3/aws4_request\n{hashlib.sha256(request).hexdigest()}"
        right = hmac.new(_signing_key(self._secret, day, region), text.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(right, given[1]):
            raise RequestDenied("SignatureDoesNotMatch")
        return payload

    def _check_time(self, at: str, day: str) -> None:
        try:
            then = datetime.strptime(at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError as error:
            raise RequestDenied("AccessDenied") from error
        if at[:8] != day or abs((self._now() - then).total_seconds()) > _SKEW:
            raise RequestDenied("RequestTimeTooSkewed")


def check_caller(method: str, headers: Headers) -> None:
    """Let in only callers that name the loopback address and are no browser page, however they sign.

    Through a name that resolves to 127.0.0.1, a page could reach it as its own site (DNS rebinding); ``Host``
    reveals that name.

    Raises:
        Refused: If it is any other caller.
    """
    names = {name for name, _ in headers}
    if method == "OPTIONS" or names & {b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"referer"}:
        raise RequestDenied("AccessDenied")
    try:
        host = urlsplit(f"//{_only(headers, b'host')}").hostname
    except ValueError:
        host = None
    if host not in _HOSTS:
        raise RequestDenied("AccessDenied")


def canonical(
    method: str, path: bytes, query: bytes, headers: Headers, signed: Iterable[str], payload: str
) -> bytes:
    """The canonical request of Signature Version 4, for S3: the path is taken as it was sent."""
    pairs = sorted(tuple(map(_encoded, pair.partition(b"=")[::2])) for pair in query.split(b"&") if pair)
    lines = [f"{name}:{_joined(headers, name.encode())}\n" for name in signed]
    searched = "&".join(f"{name}={value}" for name, value in pairs)
    parts = [method, path.decode("ascii"), searched, "".join(lines), ";".join(signed), payload]
    return "\n".join(parts).encode()


def _encoded(part: bytes) -> str:
    return quote(unquote_to_bytes(part), safe="-_.~")


def _joined(headers: Headers, name: bytes) -> str:
    values = [" ".join(value.decode("utf-8", "replace").split()) for known, value in headers if known == name]
    return ",".join(values)


def _only(headers: Headers, name: bytes) -> str:
    """The value of a header that must occur exactly once."""
    values = [value for known, value in headers if known == name]
    if len(values) != 1:
        raise RequestDenied("AccessDenied")
    return values[0].decode("latin-1").strip()


@lru_cache(maxsize=8)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


async def _whole(receive: Receive, digest: str) -> Receive:
    """The request's body, once it is known to be what was signed; ministack also reads it whole before it acts.

    Raises:
        Refused: If it is something else.
    """
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if not hmac.compare_digest(hashlib.sha256(body).hexdigest(), digest):
        raise RequestDenied("XAmzContentSHA256Mismatch")
    left = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def again() -> MutableMapping[str, Any]:
        return left.pop() if left else await receive()

    return again


async def _refuse(send: Send, code: str) -> None:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code></Error>'.encode()
    headers = [(b"content-type", b"application/xml"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve as ministack's own command does, behind the door."""
    from ministack import app as ministack  # noqa: PLC0415 - of the optional extra; it reads the environment

    key, secret = os.environ.pop(KEY), os.environ.pop(SECRET)
    ministack.app = S3Door(ministack.app, key, secret)
    ministack.main()


if __name__ == "__main__":
    main()
