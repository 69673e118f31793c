"""Errors as answers over HTTP: problem details (RFC 9457), each with a reason code and a sentence for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from dermbatch.errors import (
    BadInput,
    DermbatchError,
    NewerFormat,
    ObjectNotFound,
    PermanentError,
    TransientError,
    UsageError,
)

MEDIA_TYPE = "application/problem+json"

_STATUS: tuple[tuple[type[DermbatchError], int], ...] = (
    (ObjectNotFound, 404),
    (UsageError, 400),
    (BadInput, 422),
    (NewerFormat, 501),
    (PermanentError, 409),
    (TransientError, 503),
)
_NOT_THERE = ("there is no batch", "there is no canary", "there is no queue")
"""How sentences of usage begin that say so of what an address names."""
_TITLES = {
    400: "The request is wrong",
    401: "Nobody is signed in",
    403: "This is not allowed",
    404: "There is no such thing",
    405: "This cannot be done here",
    409: "This cannot be done now",
    410: "It is not there any more",
    412: "It has changed meanwhile",
    413: "This is too large",
    415: "This is of another type",
    416: "There is no such range",
    421: "This is not for this server",
    422: "This cannot be used",
    429: "Too much at a time",
    501: "A later version has written this",
    503: "A part of the system does not answer",
}


class Problem(Exception):
    """An answer that says what is wrong.

    Args:
        status: Of HTTP.
        reason: Stable code.
        detail: One sentence for people.
        at: Where in what was asked: a parameter, and the position in its text.
        headers: That go with it.
        who: Whom it meets, for the audit log; not told.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        *,
        at: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        who: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail, self.at, self.headers = status, reason, detail, at, headers
        self.who = who


Page = Callable[[Problem, Any], Response]
"""Makes the page that shows a problem to a person, of whom it is told what the door knows."""


def title(problem: Problem) -> str:
    """What kind of problem it is, in a few words."""
    return _TITLES.get(problem.status, "Something went wrong")


def answer(problem: Problem, headers: Mapping[str, str], page: Page, person: Any = None) -> Response:
    """The answer for it: a page where a browser goes to an address, else problem details."""
    if "text/html" in headers.get("accept", ""):
        return page(problem, person)
    return response(problem)


def response(problem: Problem) -> JSONResponse:
    """Its problem details."""
    body: dict[str, Any] = {
        "type": f"urn:dermbatch:problem:{problem.reason}",
        "title": title(problem),
        "status": problem.status,
        "detail": problem.detail,
        "reason": problem.reason,
    }
    if problem.at is not None:
        body["at"] = problem.at
    return JSONResponse(body, problem.status, problem.headers, MEDIA_TYPE)


def of_error(error: DermbatchError) -> Problem:
    """The problem that an error of ours comes to."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    if isinstance(error, UsageError) and str(error).startswith(_NOT_THERE):
        status = 404
    headers = {"Retry-After": "5"} if status == 503 else None
    return Problem(status, error.reason, str(error), headers=headers)


def install(app: FastAPI, page: Page) -> None:
    """Have every error of an application answered so."""

    def answered(request: Request, problem: Problem) -> Response:
        return answer(problem, request.headers, page, getattr(request.state, "person", None))

    @app.exception_handler(Problem)
    async def _problem(request: Request, error: Problem) -> Response:
        return answered(request, error)

    @app.exception_handler(DermbatchError)
    async def _ours(request: Request, error: DermbatchError) -> Response:
        return answered(request, of_error(error))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where, *path = first["loc"]
        at = {"in": where, "parameter": ".".join(map(str, path))}
        return answered(request, Problem(400, "usage", f"{at['parameter'] or where}: {first['msg']}", at=at))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        reason = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http")
        return answered(
            request, Problem(error.status_code, reason, f"{error.detail}.", headers=dict(error.headers or {}))
        )
