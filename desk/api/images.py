"""One image: its record, its files, its picture in layers."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from threading import Lock
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from dermbatch import layout
from dermbatch.errors import ObjectNotFound
from dermbatch.records.outcome import EnhanceOutput, FailureRecord, ResultRecord
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore, split_uri
from dermbatch.stored import read
from desk.api.answers import as_json, is_known, json_of, ranged, tagged
from desk.desk import TheStore
from desk.digests import digest
from desk.pictures import layers
from desk.pictures.layers import outline
from desk.pictures.pictures import DecodedPictures
from desk.pictures.pyramid import TILE, Pyramid
from desk.problems import Problem
from desk.results.comparisons import true_mask
from orchestrator.batches.entries import named
from orchestrator.batches.outcomes import entries, read_artifact
from orchestrator.fhir.identity import read_identity
from orchestrator.fhir.resources import MEDIA_TYPE as FHIR
from orchestrator.fhir.resources import as_json as fhir_json
from orchestrator.fhir.resources import bundle

router = APIRouter(prefix="/v1/batches/{batch}/images/{index}", tags=["images"])

_TYPES = {".png": "image/png", ".npy": "application/octet-stream", ".jpg": "image/jpeg"}
_DICOM = {"segmentation", "report", "enhanced"}
_RECORDS = 256
_PLAIN = {"sha256", "width", "height", "pixel_spacing_mm", "media_type"}


class Records:
    """Recently read result records: they are written once, and tiles are requested by the dozen."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, int], ResultRecord] = OrderedDict()
        self._lock = Lock()

    def get(self, store: ObjectStore, batch: str, index: int, *, fresh: bool = True) -> ResultRecord:
        """The record of a result.

        Args:
            store: Reads it.
            batch: Name of the batch.
            index: Index of the image.
            fresh: Whether to read it even if it is cached, to note who looks at it, and to see that it still
                exists.
        """
        with self._lock:
            found = self._held.get((batch, index))
        if found is None or fresh:
            found = read(store, layout.result(batch, index), ResultRecord)
            with self._lock:
                self._held[batch, index] = found
                while len(self._held) > _RECORDS:
                    self._held.popitem(last=False)
        return found


def record(batch: str, index: int, request: Request, store: TheStore) -> ResultRecord:
    """The result that is asked for."""
    held: Records = request.app.state.records
    return _there(held, store, batch, index)


def _there(held: Records, store: ObjectStore, batch: str, index: int, *, fresh: bool = True) -> ResultRecord:
    layout.check_batch_name(batch)
    try:
        return held.get(store, batch, index, fresh=fresh)
    except ObjectNotFound as error:
        named(store, batch)
        what = f"image {index} of batch {batch!r} has no result, or no longer has one"
        raise Problem(404, "no_result", what) from error


TheRecord = Annotated[ResultRecord, Depends(record)]


@router.get("")
def image(
    batch: str,
    index: int,
    request: Request,
    store: TheStore,
    findings: Annotated[bool, Query(description="whether to include what models found")] = True,
) -> Response:
    """The record of an image: ``result``, without small files, and the ``layers`` that it has; or ``failure``.

    Without findings, and for blind readers: only size, kind and models, and ``labels`` to choose from.
    """
    held: Records = request.app.state.records
    try:
        found = _there(held, store, batch, index)
    except Problem as missing:
        try:
            failure = read(store, layout.failure(batch, index), FailureRecord)
        except ObjectNotFound:
            raise missing from None
        return json_of(request, {"outcome": "failed", "failure": failure.model_dump(mode="json")})
    if not findings or getattr(request.state, "hidden", False):
        return json_of(request, {"outcome": "done", **unseen(found)})
    body = {"outcome": "done", "result": shown(found), "layers": layers_of(found), "files": sorted(_files(found))}
    return json_of(request, body | {"earlier": _earlier(store, batch, index)})


@router.get("/record")
def whole_record(batch: str, index: int, request: Request, store: TheStore) -> Response:
    """The record itself, as it is stored, with the small files that it holds."""
    held: Records = request.app.state.records
    try:
        body = _there(held, store, batch, index).to_json()
    except Problem as missing:
        try:
            body = read(store, layout.failure(batch, index), FailureRecord).to_json()
        except ObjectNotFound:
            raise missing from None
    return tagged(request, digest(body.hex()), body)


@router.get("/preview.jpg")
def preview(request: Request, found: TheRecord) -> Response:
    """Four tiles of 224 x 224 side by side: original, outline, purified, enhanced."""
    if not found.preview_jpeg:
        raise Problem(404, "no_preview", "this image has no preview")
    etag = found.preview or digest(found.batch, found.index)
    return tagged(request, digest(etag), found.preview_jpeg, "image/jpeg")


@router.get("/files/{name}")
def file(name: str, request: Request, found: TheRecord, store: TheStore) -> Response:
    """A file that a stage made: ``mask.png``, ``embedding.npy`` ... By ranges, too."""
    body = read_artifact(store, found, name)
    media_type = next((kind for end, kind in _TYPES.items() if name.endswith(end)), "application/octet-stream")
    return ranged(request, hashlib.sha256(body).hexdigest()[:24], body, media_type)


@router.get("/source")
def source(request: Request, found: TheRecord, store: TheStore) -> Response:
    """The file that was processed, unchanged. By ranges, too."""
    body = source_of(store, found)
    headers = {"Content-Disposition": "attachment"}
    return ranged(request, found.source.sha256[:24], body, "application/octet-stream", **headers)


@router.get("/dicom/{kind}")
def dicom(kind: str, request: Request, found: TheRecord, store: TheStore) -> Response:
    """A DICOM object that was written for it: ``segmentation``, ``report``, ``enhanced``."""
    key = next((key for name, key in found.dicom.items() if name == kind and kind in _DICOM), None)
    if key is None:
        raise Problem(404, "no_dicom", f"there is no DICOM object {kind!r} of this image")
    body = store.get(store.bucket, key)
    headers = {"Content-Disposition": f'attachment; filename="{found.batch}-{found.index}-{kind}.dcm"'}
    return ranged(request, hashlib.sha256(body).hexdigest()[:24], body, "application/dicom", **headers)


@router.get("/fhir")
def fhir(request: Request, found: TheRecord, store: TheStore) -> Response:
    """What was found as FHIR R4: a transaction Bundle of Devices, Observations and a DiagnosticReport."""
    batch = named(store, found.batch)
    made = bundle(found, batch, read_identity(store, batch, found))
    if made is None:
        raise Problem(404, "nothing_to_say", "no stage was run that FHIR has resources for")
    body = fhir_json(made)
    headers = {"Content-Disposition": f'attachment; filename="{found.batch}-{found.index}-fhir.json"'}
    return ranged(request, hashlib.sha256(body).hexdigest()[:24], body, FHIR, **headers)


@router.get("/outline")
def lines(request: Request, found: TheRecord, store: TheStore) -> Response:
    """Outline of the lesion: closed lines of (x, y) in pixels of the image."""
    stage = found.stages.get(Stage.SEGMENT)
    if stage is None:
        raise Problem(404, "no_mask", "this image was not segmented")
    if is_known(request, stage.key):
        return tagged(request, stage.key, None)
    return tagged(request, stage.key, as_json(outline(read_artifact(store, found, "mask.png"))))


@router.get("/truth")
def true_lines(
    request: Request,
    found: TheRecord,
    store: TheStore,
    prefix: Annotated[str, Query(description="s3://bucket/prefix of true masks, named like the images")],
) -> Response:
    """Outline of the true mask of this image, as of the lesion."""
    return json_of(request, outline(true_mask(store, prefix, found)))


@router.get("/layers/{layer}")
def layer_of(layer: str, request: Request, found: TheRecord, store: TheStore) -> dict[str, Any]:
    """Sizes of a layer's levels, and where it lies in the image. Decodes the layer if it is not cached."""
    picture = _picture(request, store, found, layer)
    return {
        "tile": TILE,
        "levels": [[width, height] for height, width in picture.sizes],
        "box": _box(found, layer),
    }


@router.get("/layers/{layer}/{level}/{row}-{column}", response_class=Response)
def tile(
    batch: str,
    index: int,
    layer: str,
    level: int,
    row: int,
    column: int,
    request: Request,
    store: TheStore,
) -> Response:
    """A tile of a layer. Tiles at the image's own size are lossless."""
    held: Records = request.app.state.records
    found = _there(held, store, batch, index, fresh=False)
    body, media_type = _picture(request, store, found, layer).tile(level, row, column)
    return tagged(request, digest(_identity(found, layer), level, row, column), body, media_type)


def layers_of(found: ResultRecord) -> list[str]:
    """What can be shown of an image."""
    return layers.layers_of({"source", *_files(found)})


def shown(found: ResultRecord) -> dict[str, Any]:
    """A record for people and programs: without the small files that it holds."""
    body: dict[str, Any] = found.model_dump(mode="json", exclude={"preview_jpeg": True})
    for stage in body["stages"].values():
        stage["inline"] = sorted(stage["inline"])
    return body


def unseen(found: ResultRecord) -> dict[str, Any]:
    """The same without what models found, and without the file's name, which often reveals it."""
    source = found.source.model_dump(mode="json", include=_PLAIN)
    stages = {stage: {"key": one.key, "model": one.model.model_dump()} for stage, one in found.stages.items()}
    classified = found.stages.get(Stage.CLASSIFY)
    labels = sorted(getattr(classified.output, "probabilities", ())) if classified is not None else []
    result = {"batch": found.batch, "index": found.index, "source": source, "stages": stages}
    return {"result": result, "labels": labels, "layers": ["original"], "files": [], "earlier": None}


def _files(found: ResultRecord) -> set[str]:
    return {name for stage in found.stages.values() for name in (*stage.artifacts, *stage.inline)}


def _earlier(store: ObjectStore, batch: str, index: int) -> dict[str, Any] | None:
    """The result of an earlier batch that this one is compared with."""
    asked = named(store, batch)
    if not asked.order.compared_with:
        return None
    entry = next(entries(store, asked, [index]))
    return entry.earlier.model_dump() if entry.earlier is not None else None


def source_of(store: ObjectStore, found: ResultRecord) -> bytes:
    """The source's bytes, if they are still those that were processed.

    Raises:
        Problem: 410 where it is gone, or another file lies there now.
    """
    try:
        body = store.get(*split_uri(found.source.uri))
    except (ObjectNotFound, ValueError) as error:  # or it never was in the store, being a file of `run`
        raise Problem(410, "source_gone", "the file that was processed has been removed") from error
    if layout.identity(hashlib.sha256(body).hexdigest(), found.source.frame) != found.source.sha256:
        raise Problem(410, "source_replaced", "the file that was processed has been replaced by another one")
    return body


def _identity(found: ResultRecord, layer: str) -> str:
    keys = sorted(stage.key for stage in found.stages.values() if layer != "original")
    pool = layout.pool_of(found.preview) or ""  # what is cached for one tenant is not used for another
    return " ".join([found.source.sha256, layer, pool, *keys])


def _picture(request: Request, store: ObjectStore, found: ResultRecord, layer: str) -> Pyramid:
    if layer not in layers_of(found):
        raise Problem(404, "no_layer", f"this image has no layer {layer!r}")
    pictures: DecodedPictures = request.app.state.pictures

    def files() -> dict[str, bytes]:
        return {
            name: source_of(store, found) if name == "source" else read_artifact(store, found, name)
            for name in layers.files_of(layer)
        }

    return pictures.get(_identity(found, layer), layer, found.source.frame, files)


def _box(found: ResultRecord, layer: str) -> list[int]:
    """Left, top, right, bottom of a layer in pixels of the image."""
    output = found.stages[Stage.ENHANCE].output if layer == "enhanced" else None
    if isinstance(output, EnhanceOutput) and output.box is not None:
        return [output.box.left, output.box.top, output.box.right, output.box.bottom]
    return [0, 0, found.source.width, found.source.height]
