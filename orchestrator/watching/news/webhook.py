"""The webhook: an HTTP server that object stores send their notifications to."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Self

import httpx
import structlog
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from dermbatch import metrics
from dermbatch.errors import BadInput, UsageError
from dermbatch.settings import WatchSettings
from orchestrator.watching.news.events import ObjectEvent, parse_notification
from orchestrator.watching.news.impatient import CONNECTIONS, Impatient

_MOST_BYTES = 1 << 20
"""Of one request; SNS and EventBridge send at most 256 KiB."""

_READING = 10.0
"""Seconds that a request's body may take to arrive."""

_STOPPING = 5

_log = structlog.get_logger(__name__)

Take = Callable[[Sequence[ObjectEvent]], None]
"""Takes events and returns at once; raises :class:`queue.Full` if there is no room for them now."""


def confirm(url: str) -> None:
    """Visit the address by which a subscription of SNS is confirmed.

    Raises:
        httpx.HTTPError: If it does not answer, or refuses.
    """
    httpx.get(url, timeout=_READING, follow_redirects=False).raise_for_status()


class Webhook:
    """A server in a thread of its own, from ``with`` to the end of its block.

    ``POST /events`` takes notifications: 200 once they are accepted, 400 for anything else, 401 without the token,
    413 above 1 MiB, 503 if there is no room; stores then send again. ``GET /healthz`` says 200. Heads have 5 s to
    arrive, bodies 10 s, and 128 connections are held (``impatient.py``). Requests are not logged: their bodies
    hold the keys of objects, and those often patients' names.

    Args:
        settings: Address, port (0: a free one) and token.
        take: What becomes of events; called from several threads.
        confirm: Confirms a subscription of SNS.
    """

    def __init__(self, settings: WatchSettings, take: Take, confirm: Callable[[str], None] = confirm) -> None:
        self._settings = settings
        self._take = take
        self._confirm = confirm
        self._token = settings.token.get_secret_value().encode() if settings.token is not None else None

    def __enter__(self) -> Self:
        """Listen.

        Raises:
            UsageError: If the address cannot be listened on.
        """
        address, port = self._settings.listen_address, self._settings.listen_port
        try:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            self._socket = socket.create_server((address, port), family=family)
        except OSError as error:
            text = f"the webhook cannot listen on {address} port {port}: {error.strerror}"
            raise UsageError(text) from error
        if self._token is None and not _is_loopback(self._socket.getsockname()[0]):
            _log.warning(
                "webhook_without_token",
                meaning="anybody who reaches the port may send events; set DERMBATCH_WATCH__TOKEN",
            )
        config = uvicorn.Config(
            self._app(),
            loop="asyncio",
            http=Impatient,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=CONNECTIONS // 2,  # as many are accepted at a time, before what they have sent is read
            timeout_graceful_shutdown=_STOPPING,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="webhook", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Take no more requests, answer those that have arrived, and end."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._socket.getsockname()[1]
        return port

    def _app(self) -> FastAPI:
        app = FastAPI(openapi_url=None)
        app.add_api_route("/events", self._events, methods=["POST"])
        # MinIO asks by HEAD whether its target is there.
        app.add_api_route("/events", _here, methods=["HEAD"])
        app.add_api_route("/healthz", _here, methods=["GET", "HEAD"])
        return app

    async def _events(self, request: Request) -> Response:
        if not self._allowed(request.headers.get("authorization")):
            # SNS, and curl in Ceph's gateway, send a user and a password only when asked for them.
            asking = {"WWW-Authenticate": 'Basic realm="dermbatch", charset="UTF-8"'}
            return _answer("unauthorized", 401, "the token is missing or wrong", asking)
        try:
            async with asyncio.timeout(_READING):
                body = await _body(request)
        except (TimeoutError, ClientDisconnect):
            return _answer("incomplete", 408, "the request did not arrive in time")
        if body is None:
            return _answer("too_large", 413, f"a notification has at most {_MOST_BYTES} bytes")
        return await run_in_threadpool(self._handed_over, body)

    def _handed_over(self, body: bytes) -> Response:
        try:
            notification = parse_notification(body)
        except BadInput as error:
            return _answer("bad", 400, str(error))
        if notification.subscribe_url is not None:
            return self._confirmed(notification.subscribe_url)
        try:
            if notification.events:
                self._take(notification.events)
        except queue.Full:
            return _answer(
                "full", 503, "there is no room for more events now; send it again", {"Retry-After": "5"}
            )
        metrics.NOTIFIED_OBJECTS.inc(len(notification.events))
        return _answer("taken", 200, "taken")

    def _confirmed(self, url: str) -> Response:
        try:
            self._confirm(url)
        except httpx.HTTPError as error:
            _log.warning("subscription_not_confirmed", error=type(error).__name__)
            return _answer("unconfirmed", 503, "the subscription could not be confirmed; send it again")
        _log.info("subscription_confirmed")
        return _answer("subscription", 200, "confirmed")

    def _allowed(self, header: str | None) -> bool:
        """Whether a request brings the token: as bearer, alone, or as the password of any user."""
        if self._token is None:
            return True
        given = _credentials(header or "")
        return hmac.compare_digest(given, self._token)


def _credentials(header: str) -> bytes:
    scheme, _, rest = header.partition(" ")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return (rest if scheme.lower() == "bearer" else header).strip().encode()


async def _body(request: Request) -> bytes | None:
    """All of it; none if it is too large, whatever length it states."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            return None
    return bytes(body)


async def _here() -> Response:
    return PlainTextResponse("ok\n")


def _answer(outcome: str, status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    metrics.NOTIFICATIONS.labels(outcome).inc()
    return PlainTextResponse(f"{text}\n", status, headers)


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
