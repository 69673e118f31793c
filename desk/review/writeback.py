"""Decisions as DICOM objects: downloaded, and sent to a PACS."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, ConfigDict

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.handover.pacs.stow import Destination
from dermbatch.images.dicomfile import MEDIA_TYPE
from dermbatch.records.outcome import DicomKind, KnownImage, ModelUsed, ResultRecord
from dermbatch.records.review import Decision
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import read_if_any
from desk.api.answers import json_of, ranged
from desk.api.images import TheRecord, source_of
from desk.desk import TheDesk, ThePerson, TheStore
from desk.digests import digest
from desk.door.tenancy import own_tenant
from desk.problems import Problem
from desk.review.masks import TheDecision, drawn, picture

router = APIRouter(prefix="/v1/batches/{batch}/images/{index}/decisions/{version}", tags=["review"])


class To(BaseModel):
    """Where objects are sent to."""

    model_config = ConfigDict(extra="forbid")

    to: str


@router.get("/segmentation.dcm")
def segmentation(request: Request, record: TheRecord, store: TheStore, found: TheDecision) -> Response:
    """Its mask as a DICOM Segmentation, marked as reviewed; of DICOM images."""
    return _file(request, store, record, found, "segmentation")


@router.get("/report.dcm")
def report(request: Request, record: TheRecord, store: TheStore, found: TheDecision) -> Response:
    """The decision as a DICOM structured report, verified by its reader; of DICOM images."""
    return _file(request, store, record, found, "report")


@router.post("/send")
def send(
    asked: Annotated[To, Body()],
    request: Request,
    desk: TheDesk,
    record: TheRecord,
    store: TheStore,
    found: TheDecision,
    person: ThePerson,
) -> Response:
    """Keep the objects and send them to a PACS of the settings; once more does no harm, as they are the same."""
    if (tenant := own_tenant(desk, person)) is not None:
        tenant.check_destination(asked.to)
    settings = desk.settings.dicomweb.get(asked.to)
    if settings is None:
        raise UsageError(f"the desk's settings have no PACS {asked.to!r}: set DERMBATCH_DICOMWEB__NAME__URL")
    made = objects_of(store, record, found)
    for kind, body in made.items():
        key = layout.reviewed(found.batch, found.index, found.reader, found.version, kind)
        store.put(key, body, MEDIA_TYPE)
        store.audit.note("send", f"s3://{store.bucket}/{key}", to=f"pacs:{asked.to}")
    destination = Destination(asked.to, settings)
    try:
        sent = destination.send(made)
    finally:
        destination.close()
    return json_of(request, sent.model_dump(mode="json"))


def objects_of(store: ObjectStore, record: ResultRecord, found: Decision) -> dict[DicomKind, bytes]:
    """The DICOM objects of a decision.

    Raises:
        Problem: 409 where the image is no DICOM, or the decision returns something; 410 where its file is gone.
    """
    # Not at the top: it takes a second and much memory, which desks that write nothing back need not spend.
    from dermbatch.handover.dicom.reviewed import reviewed_objects  # noqa: PLC0415

    if record.source.media_type != MEDIA_TYPE:
        raise Problem(409, "not_dicom", "the image is not DICOM, so there is no study for the objects")
    if found.kind == "return":
        raise Problem(409, "not_a_reading", "a decision returned for correction is not a reading")
    model = _begun_from(store, record, found)
    mask = None if found.mask is None else drawn(found)
    regions = {one.term: picture(one.region) for one in found.features if one.region is not None}
    made = reviewed_objects(source_of(store, record), record.source, found, mask, model, regions)
    return {kind: made[kind] for kind in made}


def _begun_from(store: ObjectStore, record: ResultRecord, found: Decision) -> ModelUsed:
    """The model whose mask the reader was shown, which may be from a later run.

    Raises:
        Problem: 410 if that run is no longer known: nothing is sent under another model's name.
    """
    own = record.stages.get(Stage.SEGMENT) or next(iter(record.stages.values()))
    seen = found.seen.stages.get(Stage.SEGMENT, own.key)
    if seen == own.key:
        return own.model
    pool = layout.pool_of(record.preview)
    known = read_if_any(store, layout.known_of(record.source.sha256, pool), KnownImage)
    if known is None or seen not in known.stages:
        raise Problem(410, "result_gone", "the run that the reader started from is no longer known")
    return known.stages[seen].model


def _file(
    request: Request, store: ObjectStore, record: ResultRecord, found: Decision, kind: DicomKind
) -> Response:
    body = objects_of(store, record, found).get(kind)
    if body is None:
        raise Problem(404, "no_dicom", "nothing was drawn, so there is no segmentation")
    name = f"{found.batch}-{found.index}-{kind}-reviewed.dcm"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return ranged(request, digest(body.hex()), body, MEDIA_TYPE, **headers)
