"""Uploads: files in pieces, streamed; an interrupted upload continues where it stopped, at any replica.

The protocol is that of tus 1.0 (core), except for how an upload begins. A file becomes an object of the incoming
bucket once its last byte is there; Redis knows how far it is.
"""

from __future__ import annotations

import json
import secrets
import unicodedata
from dataclasses import asdict, dataclass, replace
from typing import Annotated, cast

import redis
from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, StoreUnavailable
from dermbatch.ledger.connection import sorted_errors
from dermbatch.store import ObjectStore
from desk.desk import Desk, Person, TheDesk, ThePerson, TheStore
from desk.problems import Problem

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

PIECE = 8 << 20
"""Bytes of a piece that every client can send; the object store requires 5 MiB, except for the last one."""

_LEAST, _MOST = 5 << 20, 32 << 20
_KEPT = 7 * 24 * 3600
_TYPE = "application/offset+octet-stream"
_NAME_BYTES = 700
_FILES = 100_000
_JOINERS = "\u200c\u200d"


class UploadRequest(BaseModel):
    """A file to be uploaded."""

    name: str = Field(min_length=1, max_length=1000, description="its path below the chosen folder")
    size: int = Field(ge=0)
    into: str | None = Field(
        default=None,
        pattern=r"^[\w-]{20,60}$",
        description="the group of files that it belongs to: the `into` of the first answer",
    )


@dataclass(frozen=True)
class Upload:
    """One file, as Redis knows it."""

    person: str
    into: str
    key: str
    size: int
    offset: int = 0
    parts: str = ""
    etags: tuple[str, ...] = ()


@router.post("", status_code=201)
def begin(
    wanted: UploadRequest, response: Response, desk: TheDesk, person: ThePerson, store: TheStore
) -> dict[str, object]:
    """Begin a file; send its pieces to the address in ``Location``. Files with one ``into`` become one batch.

    An incomplete file of the same path is dropped: its answer was lost, or it was abandoned.
    """
    if wanted.size > desk.settings.desk.upload_bytes:
        raise Problem(413, "too_large", f"a file has at most {desk.settings.desk.upload_bytes:,} bytes")
    into = wanted.into or secrets.token_urlsafe(18)
    name = clean(wanted.name)
    upload = Upload(person.key, into, layout.upload(into, name), wanted.size)
    identifier = secrets.token_urlsafe(18)
    _enter(desk.redis, store, upload, name, identifier)
    if wanted.size > PIECE:
        upload = replace(
            upload, parts=store.begin_parts(store.incoming_bucket, upload.key, "application/octet-stream")
        )
    _keep(desk.redis, identifier, upload)
    if not wanted.size:
        _take(desk, store, identifier, upload, b"")
    response.headers["Location"] = f"/v1/uploads/{identifier}"
    response.headers["Upload-Offset"] = "0"
    return {"id": identifier, "into": into, "piece": PIECE}


@router.head("/{identifier}")
def state(identifier: str, desk: TheDesk, person: ThePerson) -> Response:
    """How far a file is: ``Upload-Offset``, ``Upload-Length``."""
    upload = _known(desk.redis, identifier, person.key)
    headers = {"Upload-Offset": str(upload.offset), "Upload-Length": str(upload.size), "Tus-Resumable": "1.0.0"}
    return Response(headers=headers)


@router.patch("/{identifier}", status_code=204)
async def piece(
    identifier: str,
    request: Request,
    desk: TheDesk,
    person: ThePerson,
    store: TheStore,
    upload_offset: Annotated[int, Header(ge=0)],
    content_type: Annotated[str, Header()] = "",
) -> Response:
    """Send the piece that begins at ``Upload-Offset``; nothing is taken of one that breaks off."""
    if content_type != _TYPE:
        raise Problem(415, "wrong_type", f"a piece must have the type {_TYPE}")
    upload = await run_in_threadpool(_known, desk.redis, identifier, person.key)
    if upload.offset != upload_offset:
        headers = {"Upload-Offset": str(upload.offset)}
        raise Problem(409, "wrong_offset", f"the file continues at byte {upload.offset}", headers=headers)
    body = await _body(request, min(_MOST, upload.size - upload.offset))
    new = await run_in_threadpool(_take, desk, store, identifier, upload, body)
    return Response(status_code=204, headers={"Upload-Offset": str(new.offset), "Tus-Resumable": "1.0.0"})


@router.delete("/{identifier}", status_code=204)
def drop(identifier: str, desk: TheDesk, person: ThePerson, store: TheStore) -> None:
    """Drop a file, complete or not."""
    upload = _known(desk.redis, identifier, person.key)
    if upload.parts and upload.offset < upload.size:
        store.drop_parts(store.incoming_bucket, upload.key, upload.parts)
    else:
        store.delete(upload.key, bucket=store.incoming_bucket)
    with sorted_errors():
        desk.redis.delete(_key(identifier))
        desk.redis.hdel(_files(person.key, upload.into), upload.key.removeprefix(layout.uploads(upload.into)))


def prefix_of(desk: Desk, person: Person, into: str) -> str:
    """Where the complete files of one ``into`` lie: an input of a batch.

    Raises:
        Problem: 404 if there is none, 409 where one is not whole.
    """
    with sorted_errors():
        files = cast("dict[str, str]", desk.redis.hgetall(_files(person.key, into)))
    if not files:
        raise Problem(404, "no_upload", "there are no such uploads of yours: they are kept for a week")
    unfinished = [name for name, identifier in files.items() if not _is_whole(desk.redis, identifier, person.key)]
    if unfinished:
        raise Problem(
            409, "upload_incomplete", f"{len(unfinished)} of {len(files)} files are incomplete: continue them"
        )
    return f"s3://{desk.store.incoming_bucket}/{layout.uploads(into)}"


def clean(name: str) -> str:
    """A file's path as it becomes part of a key: in whatever script, without what leads elsewhere.

    Raises:
        Problem: 400 if nothing is left of it, or it is too long.
    """
    parts = [
        part
        for part in unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
        if part not in {"", ".", ".."}
    ]
    shown = "/".join("".join(_visible(letter) for letter in part) for part in parts)
    if not shown or len(shown.encode("utf-8", "replace")) > _NAME_BYTES:
        raise Problem(
            400,
            "bad_name",
            f"a file's path must have 1 to {_NAME_BYTES} bytes",
            at={"in": "body", "parameter": "name"},
        )
    return shown


def _visible(letter: str) -> str:
    """The character, or ``_`` for controls and for anything that would reverse the text around it.

    Joiners stay: Persian and the scripts of India cannot be spelled without them.
    """
    return "_" if letter not in _JOINERS and unicodedata.category(letter) in {"Cc", "Cs", "Cf"} else letter


async def _body(request: Request, most: int) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise Problem(
                    413, "too_large", f"{most} bytes at most are left of this file, or accepted at a time"
                )
    except ClientDisconnect as error:
        raise Problem(400, "broke_off", "the piece was cut off: send it again") from error
    return bytes(body)


def _take(desk: Desk, store: ObjectStore, identifier: str, upload: Upload, body: bytes) -> Upload:
    last = upload.offset + len(body) == upload.size
    if not upload.parts:
        if not last:
            raise Problem(400, "too_small", "a file of up to 8 MiB must come in one piece")
        store.put(upload.key, body, "application/octet-stream", bucket=store.incoming_bucket)
        new = replace(upload, offset=upload.size)
    else:
        if not last and len(body) < _LEAST:
            raise Problem(400, "too_small", f"each piece except the last must have at least {_LEAST} bytes")
        new = _taken(store, upload, body, last=last)
    _keep(desk.redis, identifier, new)
    return new


def _taken(store: ObjectStore, upload: Upload, body: bytes, *, last: bool) -> Upload:
    """Store a piece, and join all of them if it is the last one."""
    try:
        etag = store.put_part(store.incoming_bucket, upload.key, upload.parts, len(upload.etags) + 1, body)
        new = replace(upload, offset=upload.offset + len(body), etags=(*upload.etags, etag))
        if last:
            store.finish_parts(store.incoming_bucket, upload.key, upload.parts, new.etags)
    except StoreUnavailable:  # or they are already joined, which a replica that died could no longer note
        if not last or not _is_there(store, upload):
            raise
        return replace(upload, offset=upload.size)
    return new


def _is_there(store: ObjectStore, upload: Upload) -> bool:
    try:
        return store.stat(store.incoming_bucket, upload.key).size == upload.size
    except ObjectNotFound:
        return False


def _enter(client: redis.Redis, store: ObjectStore, upload: Upload, name: str, identifier: str) -> None:
    place = _files(upload.person, upload.into)
    with sorted_errors():
        if client.hlen(place) >= _FILES:
            raise Problem(
                413, "too_large", f"upload {_FILES:,} files at most, or give a prefix of the object store"
            )
        if not client.hsetnx(place, name, identifier):
            before = cast("str | None", client.hget(place, name))
            if before is not None:
                _give_way(client, store, before, upload.person)
            client.hset(place, name, identifier)
        client.expire(place, _KEPT)


def _give_way(client: redis.Redis, store: ObjectStore, identifier: str, person: str) -> None:
    """Drop an incomplete upload of the same path.

    Raises:
        Problem: 409 if that upload is complete.
    """
    try:
        before = _known(client, identifier, person)
    except Problem:
        return  # it was never created
    if before.offset == before.size:
        raise Problem(409, "name_taken", "these files already include one of this path; rename it")
    client.delete(_key(identifier))
    if before.parts:
        store.drop_parts(store.incoming_bucket, before.key, before.parts)


def _known(client: redis.Redis, identifier: str, person: str) -> Upload:
    with sorted_errors():
        kept = cast("str | None", client.get(_key(identifier)))
    upload = None if kept is None else Upload(**{**json.loads(kept), "etags": tuple(json.loads(kept)["etags"])})
    if upload is None or upload.person != person:
        raise Problem(404, "no_upload", "there is no such upload of yours: they are kept for a week")
    return upload


def _is_whole(client: redis.Redis, identifier: str, person: str) -> bool:
    try:
        upload = _known(client, identifier, person)
    except Problem:
        return False
    return upload.offset == upload.size


def _keep(client: redis.Redis, identifier: str, upload: Upload) -> None:
    with sorted_errors():
        client.set(_key(identifier), json.dumps(asdict(upload)), ex=_KEPT)


def _key(identifier: str) -> str:
    return f"desk:upload:{identifier}"


def _files(person: str, into: str) -> str:
    return f"desk:uploads:{person}:{into}"
