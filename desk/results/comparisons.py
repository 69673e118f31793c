"""How a re-segmented batch compares with the earlier one, image by image, and with true masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dermbatch import layout
from dermbatch.errors import NewerFormat, ObjectNotFound, PermanentError
from dermbatch.images.lesion import dice
from dermbatch.records.outcome import ResultRecord
from dermbatch.store import ObjectStore, split_uri
from dermbatch.stored import read
from desk.problems import Problem
from orchestrator.batches.outcomes import in_order
from orchestrator.reporting.comparison import read_mask

A_PAGE = 25
"""Images on a page; up to three masks are read for each."""

_ENDINGS = ("", "_segmentation", "_lesion", "_mask")
"""What follows the image's name in names of true masks: ISIC's, the phantoms', and others'."""

_MOST_MASKS = 200_000
_AT_A_TIME = 4

Order = Literal["dice", "-dice", "area_change", "-area_change", "-probability_change", "index"]

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Comparison:
    """A page of a comparison.

    Attributes:
        rows: Columns of ``comparison.parquet`` and, where true masks are given, ``old_true_dice`` and
            ``new_true_dice``, null where there is no such mask, or one of another size.
        total: Images in the comparison, including those that had nothing to be compared with.
        start: How many come before these.
    """

    rows: list[dict[str, Any]]
    total: int
    start: int


def compared(store: ObjectStore, batch: str, order: Order, start: int, truth: str | None) -> Comparison:
    """Images of a batch that compares models, by default those that differ most first.

    Args:
        store: Where everything lies.
        batch: The later batch.
        order: A column, with ``-`` in front for descending order; images without a value come last.
        start: How many to skip.
        truth: ``s3://bucket/prefix`` of true masks, named after their images; none if none are given.

    Raises:
        Problem: 404 if the batch has no comparison; 400 where ``truth`` is no prefix.
    """
    try:
        body = store.get(store.bucket, layout.comparison_table(batch))
    except ObjectNotFound as error:
        raise Problem(
            404, "no_comparison", f"batch {batch!r} compares no models, or has not closed yet"
        ) from error
    table = pq.read_table(BytesIO(body))
    way = "descending" if order.startswith("-") else "ascending"
    keys = [(order.removeprefix("-"), way), ("index", "ascending")]
    places = pc.sort_indices(table, sort_keys=keys).slice(start, A_PAGE)
    rows = table.take(places).to_pylist()
    if truth is not None:
        masks = _masks(store, truth)
        found = in_order(lambda row: _against(store, batch, row, masks), rows, _AT_A_TIME)
        rows = [row | against for row, against in zip(rows, found, strict=True)]
    return Comparison(rows, table.num_rows, start)


def true_mask(store: ObjectStore, truth: str, record: ResultRecord) -> bytes:
    """The true mask of an image.

    Raises:
        Problem: 404 if there is none; 400 where ``truth`` is no prefix.
    """
    found = _of(_masks(store, truth), record.name)
    if found is None:
        raise Problem(404, "no_truth", "there is no true mask with this image's name")
    return store.get(*found)


def _masks(store: ObjectStore, truth: str) -> dict[str, tuple[str, str]]:
    """Buckets and keys of the pictures below a prefix, by their names without suffix."""
    at = {"in": "query", "parameter": "truth"}
    try:
        bucket, prefix = split_uri(truth)
    except ValueError as error:
        raise Problem(400, "usage", str(error), at=at) from error
    found = dict[str, tuple[str, str]]()
    for info in store.list(bucket, prefix):
        if info.key.lower().endswith((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")):
            found[PurePosixPath(info.key).stem] = bucket, info.key
        if len(found) > _MOST_MASKS:
            raise Problem(
                413, "too_large", f"more than {_MOST_MASKS:,} masks are there; name a narrower prefix", at=at
            )
    return found


def _of(masks: Mapping[str, tuple[str, str]], name: str) -> tuple[str, str] | None:
    stem = PurePosixPath(name).stem
    return next((masks[stem + ending] for ending in _ENDINGS if stem + ending in masks), None)


def _against(
    store: ObjectStore, batch: str, row: dict[str, Any], masks: Mapping[str, tuple[str, str]]
) -> dict[str, float | None]:
    found: dict[str, float | None] = {"old_true_dice": None, "new_true_dice": None}
    place = _of(masks, row["name"])
    if place is None:
        return found
    true: Any = cv2.imdecode(np.frombuffer(store.get(*place), np.uint8), cv2.IMREAD_GRAYSCALE)
    if true is None:
        return found
    lesion = np.asarray(true > 127, np.uint8)
    for age, where in (("old", (row["earlier_batch"], row["earlier_index"])), ("new", (batch, row["index"]))):
        for mask in _mask(store, *where):
            if mask.shape == lesion.shape:
                found[f"{age}_true_dice"] = dice(mask, lesion)
    return found


def _mask(store: ObjectStore, batch: str, index: int) -> Iterator[Mask]:
    """The mask of a result; nothing if it no longer has one."""
    try:
        found = read_mask(store, read(store, layout.result(batch, index), ResultRecord))
    except (ObjectNotFound, PermanentError, NewerFormat):
        return
    if found is not None:
        yield found
