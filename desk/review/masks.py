"""Masks going in and out: the models' own to start from, files from other programs, and files for them."""

from __future__ import annotations

from io import BytesIO
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydicom import dcmread
from starlette.concurrency import run_in_threadpool

from dermbatch import layout
from dermbatch.errors import ObjectNotFound
from dermbatch.images import png
from dermbatch.images.dicomfile import MEDIA_TYPE
from dermbatch.images.lesion import Mask
from dermbatch.images.quiet import quiet
from dermbatch.records.outcome import KnownImage, ResultRecord
from dermbatch.records.review import Case, Decision, DrawnMask
from dermbatch.review.files import coco, is_dicom, mask_of
from dermbatch.review.kept import decided, newer_results
from dermbatch.review.leases import Leases
from dermbatch.review.masks import of_runs, runs
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import read_if_any
from desk.api.answers import as_json, json_of, tagged
from desk.api.images import TheRecord, source_of
from desk.desk import Person, ThePerson, TheStore
from desk.digests import digest
from desk.pictures.layers import outline
from desk.problems import Problem
from desk.review.queues import TheLeases
from orchestrator.batches.outcomes import read_artifact

router = APIRouter(prefix="/v1/batches/{batch}/images/{index}", tags=["review"])

_MOST_BYTES = 64 << 20
_FILE = "mask.png"


@router.get("/masks/model")
def model(
    request: Request,
    record: TheRecord,
    store: TheStore,
    newer: Annotated[
        bool, Query(description="whether to take the mask of the image's last run, in any batch")
    ] = False,
) -> Response:
    """The model's mask as COCO's run lengths, its outline, and the key of the result that it is of."""
    found = last_of(store, record) if newer else record
    stage = found.stages.get(Stage.SEGMENT)
    if stage is None:
        raise Problem(404, "no_mask", "this image was not segmented")
    body = read_artifact(store, found, _FILE)
    mask = png.decode(body)
    answer = {"counts": runs(mask), "outline": outline(body), "key": stage.key, "model": stage.model.model_dump()}
    return json_of(request, answer)


@router.post("/masks")
async def taken_in(request: Request, record: TheRecord, store: TheStore) -> Response:
    """COCO's run lengths of a file: a PNG of two values, COCO's JSON, or a DICOM Segmentation. Nothing is kept.

    A Segmentation that names images has to name this one, where it is DICOM.
    """
    if int(request.headers.get("content-length") or 0) > _MOST_BYTES:
        raise Problem(413, "too_large", f"a mask has at most {_MOST_BYTES >> 20} MiB")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_BYTES:
            raise Problem(413, "too_large", f"a mask has at most {_MOST_BYTES >> 20} MiB")
    try:
        mask = await run_in_threadpool(_taken_in, bytes(body), record, store)
    except ValueError as error:
        raise Problem(400, "bad_mask", f"{error}", at={"in": "body"}) from error
    return Response(as_json({"counts": runs(mask)}), media_type="application/json")


def _taken_in(body: bytes, record: ResultRecord, store: ObjectStore) -> Mask:
    source = record.source
    instance = None
    if is_dicom(body) and source.media_type == MEDIA_TYPE:
        with quiet():
            found = dcmread(BytesIO(source_of(store, record)), specific_tags=["SOPInstanceUID"], force=True)
        instance = found.get("SOPInstanceUID")
    return mask_of(body, source.height, source.width, instance, source.frame)


def seen(
    batch: str,
    index: int,
    version: int,
    store: TheStore,
    person: ThePerson,
    leases: TheLeases,
    reader: Annotated[str | None, Query(description="reader of the decision; by default yourself")] = None,
) -> Decision:
    """A decision that the asker may see: their own; others' once they have decided, or are to adjudicate."""
    layout.check_batch_name(batch)
    found = None
    if reader in {None, person.name} or may_see(store, leases, batch, index, person):
        found = decided(store, batch, index, reader or person.name, version)
    if found is None:
        raise Problem(404, "not_found", "there is no such decision, or not for you yet")
    return found


TheDecision = Annotated[Decision, Depends(seen)]


@router.get("/decisions/{version}/mask.png")
def as_png(request: Request, found: TheDecision) -> Response:
    """Its mask, 255 where lesion, pixel by pixel as it was drawn."""
    return tagged(request, digest(_name(found)), png.encode(drawn(found)), "image/png")


@router.get("/decisions/{version}/mask.json")
def as_coco(request: Request, found: TheDecision) -> Response:
    """Its mask as COCO's compressed run lengths."""
    return tagged(request, digest(_name(found), "coco"), as_json(coco(drawn(found))))


def may_see(store: ObjectStore, leases: Leases, batch: str, index: int, person: Person) -> bool:
    """Whether somebody may see what others decided, having decided or given up being blind."""
    if decided(store, batch, index, person.name, 1) is not None:
        return True
    return leases.has_opened(Case(batch=batch, index=index), person.name)


def drawn(found: Decision) -> Mask:
    """The mask of a decision.

    Raises:
        Problem: 404, where it says nothing of one.
    """
    if found.mask is None:
        raise Problem(404, "not_found", "there is no mask in this decision")
    return picture(found.mask)


def picture(found: DrawnMask) -> Mask:
    """What was drawn, uint8 [H, W], 0 or 255."""
    return of_runs(found.counts, found.height, found.width)


def last_of(store: ObjectStore, record: ResultRecord) -> ResultRecord:
    """A result with the stages that were run again since, in whichever batch."""
    shown = {stage: one.key for stage, one in record.stages.items()}
    pool = layout.pool_of(record.preview)
    newer = newer_results(store, record.source.sha256, shown, pool)
    known = read_if_any(store, layout.known_of(record.source.sha256, pool), KnownImage)
    if not newer or known is None:
        return record
    try:
        found = {stage: known.stages[key] for stage, key in newer.items()}
    except KeyError as error:
        raise ObjectNotFound("an earlier result is no longer known") from error
    return record.model_copy(update={"stages": {**record.stages, **found}})


def _name(found: Decision) -> str:
    return f"{found.batch} {found.index} {found.reader} {found.version} {found.made}"
