"""Exports of a view: tables, COCO, FiftyOne, DICOM objects; as downloads that are written while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, PermanentError
from dermbatch.records.outcome import ResultRecord
from dermbatch.store import ObjectStore
from dermbatch.stored import read
from desk.api.results import TheView, pairs_of
from desk.desk import TheStore
from desk.problems import Problem
from desk.results import exports
from desk.results.view import View

router = APIRouter(prefix="/v1/exports", tags=["results"])

Kind = Literal["csv", "parquet", "coco", "fiftyone", "dicom"]

_FILES: dict[Kind, tuple[str, str]] = {
    "csv": ("text/csv; charset=utf-8", "csv"),
    "parquet": ("application/vnd.apache.parquet", "parquet"),
    "coco": ("application/json", "json"),
    "fiftyone": ("application/zip", "zip"),
    "dicom": ("application/zip", "zip"),
}


@router.get("/{kind}", response_class=StreamingResponse)
def export(
    kind: Kind,
    found: TheView,
    store: TheStore,
    ids: Annotated[str, Query(description="only these images, as batch number and index: 0:15,1:3")] = "",
) -> StreamingResponse:
    """What a view means, in order of batch and index, in another format.

    ``fiftyone`` is a zip of the images' files and their masks as COCO, which FiftyOne imports as
    ``COCODetectionDataset``; ``dicom`` one of the DICOM objects that were written.
    """
    if ids:
        found.only(pairs_of(ids))
    if not found.chosen.any():
        raise Problem(404, "nothing", "nothing matches, so there is nothing to export")
    media_type, suffix = _FILES[kind]
    name = f"{found.parts[0].name}-{kind}.{suffix}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(_body(kind, found, store), media_type=media_type, headers=headers)


def _body(kind: Kind, found: View, store: ObjectStore) -> Iterator[bytes]:
    look = _reader(store)
    match kind:
        case "csv":
            return exports.csv(found.tables(), [name for part in found.parts for name in part.table.names])
        case "parquet":
            return exports.parquet(found.tables(), found.schema)
        case "coco":
            masks = exports.marked(store, look, _images(found))
            return exports.coco(masks, found.labels, lambda record: record.name)
        case "dicom":
            return exports.zipped(_some(exports.dicom_files(store, look, _images(found))))
    masks = exports.marked(store, look, _images(found))
    labels: tuple[str, Iterable[bytes]] = ("labels.json", exports.coco(masks, found.labels, exports.data_name))
    return exports.zipped(chain(exports.source_files(store, look, _images(found)), [labels]))


def _images(found: View) -> Iterator[tuple[str, int]]:
    """The images that have a result, of those that are meant."""
    for table in found.tables(["index", "outcome"]):
        columns = zip(*(table.column(name).to_pylist() for name in ("batch", "index", "outcome")), strict=True)
        yield from ((batch, index) for batch, index, outcome in columns if outcome == "done")


def _reader(store: ObjectStore) -> Callable[[str, int], ResultRecord | None]:
    def look(batch: str, index: int) -> ResultRecord | None:
        try:
            return read(store, layout.result(batch, index), ResultRecord)
        except (ObjectNotFound, PermanentError):
            return None

    return look


def _some(files: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The files, looked at for the first one before anything is answered."""
    first = next(files, None)
    if first is None:
        raise Problem(404, "no_dicom", "none of these images has DICOM objects: submit with --dicom")
    return chain([first], files)
