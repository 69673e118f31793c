"""Uploads: files in pieces, each as it comes; what broke off goes on where it stopped, at any replica.

The protocol is that of tus 1.0 (core), but for how an upload begins. A file becomes an object of the incoming
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

from dermbatch.ledger.connection import sorted_errors
from dermbatch.store import ObjectStore
from desk.desk import Desk, Person, TheDesk, ThePerson, TheStore
from desk.problems import Problem

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

PIECE = 8 << 20
"""Bytes of a piece that every client can send; the object store asks for 5 MiB at least, but of the last one."""

_LEAST, _MOST = 5 << 20, 32 << 20
_KEPT = 7 * 24 * 3600
_TYPE = "application/offset+octet-stream"
_NAME_BYTES = 700
_FILES = 100_000


class Wanted(BaseModel):
    """A file that is to come."""

    name: str = Field(min_length=1, max_length=1000, description="its path below what was chosen")
    size: int = Field(ge=0)
    into: str | None = Field(
        default=None,
        pattern=r"^[\w-]{20,60}$",
        description="the files that it comes with: as the first answer said",
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
    wanted: Wanted, response: Response, desk: TheDesk, person: ThePerson, store: TheStore
) -> dict[str, object]:
    """Begin a file; pieces are sent to the address in ``Location``. Files of one ``into`` become one batch."""
    if wanted.size > desk.settings.desk.upload_bytes:
        raise Problem(413, "too_large", f"a file has at most {desk.settings.desk.upload_bytes:,} bytes")
    into = wanted.into or secrets.token_urlsafe(18)
    name = clean(wanted.name)
    upload = Upload(person.name, into, f"desk/{into}/{name}", wanted.size)
    identifier = secrets.token_urlsafe(18)
    _enter(desk.redis, person, into, name, identifier)
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
    upload = _known(desk.redis, identifier, person)
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
    """Send the piece that begins at ``Upload-Offset``; of one that breaks off, nothing is taken."""
    if content_type != _TYPE:
        raise Problem(415, "wrong_type", f"a piece is of type {_TYPE}")
    upload = await run_in_threadpool(_known, desk.redis, identifier, person)
    if upload.offset != upload_offset:
        headers = {"Upload-Offset": str(upload.offset)}
        raise Problem(409, "wrong_offset", f"the file goes on at byte {upload.offset}", headers=headers)
    body = await _body(request, min(_MOST, upload.size - upload.offset))
    new = await run_in_threadpool(_take, desk, store, identifier, upload, body)
    return Response(status_code=204, headers={"Upload-Offset": str(new.offset), "Tus-Resumable": "1.0.0"})


@router.delete("/{identifier}", status_code=204)
def drop(identifier: str, desk: TheDesk, person: ThePerson, store: TheStore) -> None:
    """Give up a file, whether it is whole or not."""
    upload = _known(desk.redis, identifier, person)
    if upload.parts and upload.offset < upload.size:
        store.drop_parts(store.incoming_bucket, upload.key, upload.parts)
    else:
        store.delete(upload.key, bucket=store.incoming_bucket)
    with sorted_errors():
        desk.redis.delete(_key(identifier))
        desk.redis.hdel(_files(person, upload.into), upload.key.split("/", 2)[2])


def prefix_of(desk: Desk, person: Person, into: str) -> str:
    """Where the files of one ``into`` lie, all of them whole: an input of a batch.

    Raises:
        Problem: 404 where there is none, 409 where one is not whole.
    """
    with sorted_errors():
        files = cast("dict[str, str]", desk.redis.hgetall(_files(person, into)))
    if not files:
        raise Problem(404, "no_upload", "there are no such uploads of yours: they are kept for a week")
    unfinished = [name for name, identifier in files.items() if not _is_whole(desk.redis, identifier, person)]
    if unfinished:
        raise Problem(
            409, "upload_incomplete", f"{len(unfinished)} of {len(files)} files are not whole: go on with them"
        )
    return f"s3://{desk.store.incoming_bucket}/desk/{into}/"


def clean(name: str) -> str:
    """A file's path as it becomes part of a key: in whatever script, without what leads elsewhere.

    Raises:
        Problem: 400 where nothing is left of it, or it is too long.
    """
    parts = [
        part
        for part in unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
        if part not in {"", ".", ".."}
    ]
    shown = "/".join("".join(_visible(letter) for letter in part) for part in parts)
    if not shown or len(shown.encode("utf-8", "replace")) > _NAME_BYTES:
        raise Problem(
            400, "bad_name", f"a file's path has 1 to {_NAME_BYTES} bytes", at={"in": "body", "parameter": "name"}
        )
    return shown


def _visible(letter: str) -> str:
    """The letter; ``_`` for controls, and for what would turn the text around it."""
    return "_" if unicodedata.category(letter) in {"Cc", "Cs", "Cf"} else letter


async def _body(request: Request, most: int) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise Problem(413, "too_large", f"{most} bytes are left of this file, or taken at a time")
    except ClientDisconnect as error:
        raise Problem(400, "broke_off", "the piece broke off: send it again") from error
    return bytes(body)


def _take(desk: Desk, store: ObjectStore, identifier: str, upload: Upload, body: bytes) -> Upload:
    last = upload.offset + len(body) == upload.size
    if not upload.parts:
        if not last:
            raise Problem(400, "too_small", "a file of up to 8 MiB comes in one piece")
        store.put(upload.key, body, "application/octet-stream", bucket=store.incoming_bucket)
        new = replace(upload, offset=upload.size)
    else:
        if not last and len(body) < _LEAST:
            raise Problem(400, "too_small", f"each piece but the last has {_LEAST} bytes at least")
        etag = store.put_part(store.incoming_bucket, upload.key, upload.parts, len(upload.etags) + 1, body)
        new = replace(upload, offset=upload.offset + len(body), etags=(*upload.etags, etag))
        if last:
            store.finish_parts(store.incoming_bucket, upload.key, upload.parts, new.etags)
    _keep(desk.redis, identifier, new)
    return new


def _enter(client: redis.Redis, person: Person, into: str, name: str, identifier: str) -> None:
    with sorted_errors():
        if client.hlen(_files(person, into)) >= _FILES:
            raise Problem(
                413, "too_large", f"upload {_FILES:,} files at most, or give a prefix of the object store"
            )
        if not client.hsetnx(_files(person, into), name, identifier):
            raise Problem(409, "name_taken", "there is a file of this path among these already")
        client.expire(_files(person, into), _KEPT)


def _known(client: redis.Redis, identifier: str, person: Person) -> Upload:
    with sorted_errors():
        said = cast("str | None", client.get(_key(identifier)))
    upload = None if said is None else Upload(**{**json.loads(said), "etags": tuple(json.loads(said)["etags"])})
    if upload is None or upload.person != person.name:
        raise Problem(404, "no_upload", "there is no such upload of yours: they are kept for a week")
    return upload


def _is_whole(client: redis.Redis, identifier: str, person: Person) -> bool:
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


def _files(person: Person, into: str) -> str:
    return f"desk:uploads:{person.name}:{into}"
