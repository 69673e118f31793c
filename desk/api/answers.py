"""Answers that several parts of the API share: with ETags, in pages, by ranges."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import asdict
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from fastapi import Request, Response

from desk.digests import digest
from desk.problems import Problem

JSON = "application/json"


def is_known(request: Request, etag: str) -> bool:
    """Whether the client has this version already (RFC 9110, 13.1.2)."""
    etags = request.headers.get("if-none-match", "")
    return etags == "*" or etag in {one.strip().removeprefix("W/").strip('"') for one in etags.split(",")}


def tagged(request: Request, etag: str, body: bytes | None, media_type: str = JSON) -> Response:
    """An answer with an ETag; without its body if the client has it.

    Browsers may cache it, but must revalidate it each time, so that the audit log has every view.
    """
    headers = {"ETag": f'"{etag}"', "Cache-Control": "private, no-cache"}
    if is_known(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, media_type)


def as_json(value: Any) -> bytes:
    """UTF-8 JSON; times in ISO 8601."""
    return json.dumps(value, default=_plain, ensure_ascii=False, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else asdict(value)


def json_of(request: Request, value: Any) -> Response:
    """JSON with the digest of its bytes as ETag."""
    body = as_json(value)
    return tagged(request, digest(body.hex()), body)


def ranged(request: Request, etag: str, body: bytes, media_type: str, **headers: str) -> Response:
    """A file, or the requested range of it (RFC 9110, 14).

    Raises:
        Problem: 416 where there is no such range.
    """
    about = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache", **headers}
    if is_known(request, etag):
        return Response(status_code=304, headers=about)
    header = request.headers.get("range", "")
    if (
        not header.startswith("bytes=")
        or "," in header
        or request.headers.get("if-range", f'"{etag}"') != f'"{etag}"'
    ):
        return Response(body, 200, about, media_type)
    start, end = _span(header.removeprefix("bytes="), len(body))
    about["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
    return Response(body[start:end], 206, about, media_type)


def _span(span: str, size: int) -> tuple[int, int]:
    first, _, last = span.strip().partition("-")
    try:
        start, end = (int(first), int(last) + 1 if last else size) if first else (max(0, size - int(last)), size)
    except ValueError:
        start, end = size, size
    if start >= size or end <= start:
        raise Problem(
            416, "no_such_range", f"the file has only {size} bytes", headers={"Content-Range": f"bytes */{size}"}
        )
    return start, min(end, size)


def cursor_of(fingerprint: str, last: tuple[int, int]) -> str:
    """The cursor after the last result that was returned."""
    return base64.urlsafe_b64encode(json.dumps([fingerprint, *last]).encode()).decode().rstrip("=")


def read_cursor(cursor: str, fingerprint: str) -> tuple[int, int]:
    """Number of the batch and index of the last result that was returned.

    Raises:
        Problem: 400 if it is invalid, or belongs to another query.
    """
    at = {"in": "query", "parameter": "cursor"}
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        whose, batch, index = json.loads(base64.urlsafe_b64decode(padded))
        last = int(batch), int(index)
    except (ValueError, TypeError, OverflowError, binascii.Error) as error:
        raise Problem(400, "bad_cursor", "this is not a cursor; begin without one", at=at) from error
    if whose != fingerprint:
        raise Problem(
            400,
            "other_cursor",
            "this cursor belongs to another query, order or batch: begin again without one",
            at=at,
        )
    return last


def next_link(request: Request, cursor: str | None) -> str | None:
    """The address of the page after this one."""
    if cursor is None:
        return None
    asked = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
    return f"{request.url.path}?{urlencode([*asked, ('cursor', cursor)])}"
