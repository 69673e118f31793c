"""DICOMweb, read-only (PS3.18): the DICOM objects of one batch, under the standard's own paths.

``/dicom-web/{batch}`` is the root of the service: QIDO-RS (10.6) for studies, series and instances, WADO-RS (10.4)
for instances and metadata.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from threading import Lock
from typing import Annotated, Any

import pydicom
from fastapi import APIRouter, Depends, Request, Response
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from dermbatch import layout
from dermbatch.store import ObjectStore
from desk.api.answers import as_json
from desk.desk import TheStore
from desk.problems import Problem
from orchestrator.batches.entries import named
from orchestrator.batches.outcomes import in_order

router = APIRouter(prefix="/dicom-web/{batch}", tags=["dicom"])

_JSON = "application/dicom+json"
_MOST = 20_000
_HELD = 8
_AT_A_TIME = 8
_STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "PatientName", "PatientID", "StudyID")
_SERIES = ("SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription")
_INSTANCE = ("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns", "NumberOfFrames")
_PAGED = {"limit", "offset", "includefield", "fuzzymatching"}


@dataclass(frozen=True)
class _Object:
    key: str
    header: Dataset

    def attributes(self, names: tuple[str, ...]) -> Dataset:
        found = Dataset()
        for name in names:
            if name in self.header:
                found[name] = self.header[name]
        return found


class Headers:
    """Headers of the DICOM objects of recently requested batches."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, str], list[_Object]] = OrderedDict()
        self._lock = Lock()

    def of(self, store: ObjectStore, batch: str) -> list[_Object]:
        """The headers of one batch; read again if its objects have changed.

        Raises:
            Problem: 413 where it has too many.
        """
        named(store, batch)
        infos = list(store.list(store.bucket, f"{layout.batch_prefix(batch)}dicom/"))
        if len(infos) > _MOST:
            raise Problem(
                413, "too_large", f"DICOMweb serves batches of up to {_MOST:,} objects; export the view instead"
            )
        version = batch, str(hash(tuple((info.key, info.etag) for info in infos)))
        with self._lock:
            if version in self._held:
                self._held.move_to_end(version)
                return self._held[version]
        read = in_order(lambda info: _header(store, info.key), infos, _AT_A_TIME)
        found = [one for one in read if one is not None]
        with self._lock:
            self._held[version] = found
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
        return found


@router.get("/studies")
def studies(batch: str, request: Request, store: TheStore) -> Response:
    """QIDO-RS: studies."""
    return _found(request, _all(request, store, batch), _STUDY, "StudyInstanceUID")


@router.get("/studies/{study}/series")
def series(batch: str, study: str, request: Request, store: TheStore) -> Response:
    """QIDO-RS: series of a study."""
    return _found(request, _all(request, store, batch, study), (*_STUDY[:1], *_SERIES), "SeriesInstanceUID")


@router.get("/series")
def all_series(batch: str, request: Request, store: TheStore) -> Response:
    """QIDO-RS: all series."""
    return _found(request, _all(request, store, batch), (*_STUDY[:1], *_SERIES), "SeriesInstanceUID")


@router.get("/instances")
@router.get("/studies/{study}/instances")
@router.get("/studies/{study}/series/{one}/instances")
def instances(
    batch: str, request: Request, store: TheStore, study: str | None = None, one: str | None = None
) -> Response:
    """QIDO-RS: instances."""
    names = (*_STUDY[:1], *_SERIES[:2], *_INSTANCE)
    return _found(request, _all(request, store, batch, study, one), names, "SOPInstanceUID")


def _named(
    batch: str,
    study: str,
    request: Request,
    store: TheStore,
    one: str | None = None,
    instance: str | None = None,
) -> list[_Object]:
    """The objects that a path of WADO-RS names."""
    found = _all(request, store, batch, study, one, instance)
    if not found:
        raise Problem(404, "no_dicom", "there is no such DICOM object in this batch")
    return found


_Named = Annotated[list[_Object], Depends(_named)]


@router.get("/studies/{study}/metadata")
@router.get("/studies/{study}/series/{one}/metadata")
@router.get("/studies/{study}/series/{one}/instances/{instance}/metadata")
def metadata(found: _Named) -> Response:
    """WADO-RS: headers, without pixel data."""
    return Response(as_json([_plain(each.header) for each in found]), media_type=_JSON)


@router.get("/studies/{study}")
@router.get("/studies/{study}/series/{one}")
@router.get("/studies/{study}/series/{one}/instances/{instance}")
def retrieve(request: Request, store: TheStore, found: _Named, instance: str | None = None) -> Response:
    """WADO-RS: objects, as ``multipart/related``; one alone as ``application/dicom`` where that is asked for."""
    accept = request.headers.get("accept", "")
    if instance is not None and accept.startswith("application/dicom") and "json" not in accept:
        return Response(store.get(store.bucket, found[0].key), media_type="application/dicom")
    boundary = secrets.token_hex(16)
    parts = (
        b"--%b\r\nContent-Type: application/dicom\r\n\r\n%b\r\n"
        % (boundary.encode(), store.get(store.bucket, each.key))
        for each in found
    )
    body = b"".join(parts) + b"--%b--\r\n" % boundary.encode()
    return Response(body, media_type=f'multipart/related; type="application/dicom"; boundary={boundary}')


def _all(
    request: Request,
    store: ObjectStore,
    batch: str,
    study: str | None = None,
    series: str | None = None,
    instance: str | None = None,
) -> list[_Object]:
    headers: Headers = request.app.state.headers
    wanted = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": instance}
    return [
        one
        for one in headers.of(store, batch)
        if all(value is None or one.header.get(name) == value for name, value in wanted.items())
    ]


def _found(request: Request, objects: list[_Object], names: tuple[str, ...], key: str) -> Response:
    """The matching of QIDO-RS: attributes by keyword or tag, without ``*`` and ``?``; in pages."""
    for name, value in request.query_params.items():
        if name in _PAGED:
            continue
        keyword = _keyword(name)
        objects = [one for one in objects if str(one.header.get(keyword, "")) == value]
    distinct = list({str(one.header.get(key)): one for one in objects}.values())
    start, limit = _number(request, "offset", 0), _number(request, "limit", 1000)
    page = distinct[start : start + limit]
    if not page:
        return Response(status_code=204)
    return Response(as_json([_plain(one.attributes(names)) for one in page]), media_type=_JSON)


def _keyword(name: str) -> str:
    """The keyword of an attribute that a query names, by its keyword or tag."""
    try:
        return pydicom.datadict.keyword_for_tag(name) or name
    except ValueError as error:
        at = {"in": "query", "parameter": name}
        raise Problem(400, "usage", f"{name} is not a DICOM attribute", at=at) from error


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdecimal():
        raise Problem(400, "usage", f"{name} must be a number", at={"in": "query", "parameter": name})
    return int(text)


def _header(store: ObjectStore, key: str) -> _Object | None:
    try:
        return _Object(key, pydicom.dcmread(BytesIO(store.get(store.bucket, key)), stop_before_pixels=True))
    except (InvalidDicomError, ValueError, EOFError):
        return None


def _plain(dataset: Dataset) -> dict[str, Any]:
    encoded: dict[str, Any] = dataset.to_json_dict(
        bulk_data_threshold=1 << 16, bulk_data_element_handler=lambda _: ""
    )
    return encoded
