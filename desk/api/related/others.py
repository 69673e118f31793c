"""Other pictures of the same person: of images that were de-identified, whose names begin with a pseudonym."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

import pydicom
from fastapi import APIRouter, Request, Response
from pydicom.errors import InvalidDicomError

from dermbatch.errors import NewerFormat, ObjectNotFound, PermanentError
from dermbatch.store import ObjectStore, split_uri
from desk.api.answers import json_of
from desk.api.images import Records, TheRecord
from desk.desk import TheDesk, ThePerson, TheStore
from desk.results.shelf import Shelf
from desk.results.view import PSEUDONYM
from orchestrator.batches.entries import named, read_batch
from orchestrator.batches.outcomes import in_order
from orchestrator.reporting.overview import overview

router = APIRouter(prefix="/v1/batches/{batch}/images/{index}", tags=["images"])

_MOST = 60
_HEAD = 256 << 10
_AT_A_TIME = 8
_DATES = ("AcquisitionDateTime", "AcquisitionDate", "ContentDate", "StudyDate")


@router.get("/others")
def others(request: Request, found: TheRecord, desk: TheDesk, store: TheStore, person: ThePerson) -> Response:
    """The other pictures of the same pseudonym, earliest first.

    They are looked for in the batches that the overview names and that were de-identified with the same salt; when
    each was ``taken`` is what its header says (with shifted dates, intervals hold), null where it says nothing.
    """
    profile = named(store, found.batch).order.deidentified
    whose = re.search(PSEUDONYM, found.name)
    if profile is None or whose is None:
        return json_of(request, {"pseudonym": None, "pictures": []})
    shelf: Shelf = request.app.state.shelf
    pictures: list[dict[str, Any]] = []
    for name in dict.fromkeys(
        [found.batch, *(one.name for one in overview(store, desk.ledger, tenant=person.tenant).batches)]
    ):
        if len(pictures) <= _MOST and _salt(store, name) == profile.salt:
            view = shelf.view(store, [name], f'pseudonym:"{whose["p"]}"', "", {})
            pictures += view.cards(view.order[: _MOST + 1])
    pictures = [one for one in pictures if (one["batch"], one["index"]) != (found.batch, found.index)][:_MOST]
    records: Records = request.app.state.records
    times = in_order(lambda one: _times(store, records, one), pictures, _AT_A_TIME)
    pictures = [one | taken for one, taken in zip(pictures, times, strict=True)]
    pictures.sort(key=lambda one: (one["taken"] is None, one["taken"] or "", one["finished"] or ""))
    return json_of(request, {"pseudonym": whose["p"], "pictures": pictures})


def _salt(store: ObjectStore, name: str) -> str | None:
    try:
        profile = read_batch(store, name).order.deidentified
    except (ObjectNotFound, PermanentError, NewerFormat):
        return None
    return profile.salt if profile is not None else None


def _times(store: ObjectStore, records: Records, picture: dict[str, Any]) -> dict[str, Any]:
    try:
        record = records.get(store, picture["batch"], picture["index"], fresh=False)
        bucket, key = split_uri(record.source.uri)
        store.audit.note("read", record.source.uri, size=_HEAD)
        return {"taken": taken(store.span(bucket, key, 0, _HEAD)), "finished": record.finished.isoformat()}
    except (ObjectNotFound, PermanentError, NewerFormat):
        return {"taken": None, "finished": None}


def taken(head: bytes) -> str | None:
    """When a picture was taken, by the beginning of its DICOM file: ``2026-03-02``; none if it does not say."""
    try:
        header = pydicom.dcmread(BytesIO(head), stop_before_pixels=True, specific_tags=list(_DATES))
        moment = next((str(header[name].value) for name in _DATES if header.get(name)), "")
    except (InvalidDicomError, ValueError, EOFError, AttributeError, NotImplementedError):
        return None
    date = re.match(r"(\d{4})\.?(\d{2})\.?(\d{2})", moment)
    return "-".join(date.groups()) if date else None
