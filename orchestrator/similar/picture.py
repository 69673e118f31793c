"""What a record holds of a lesion's appearance: its small picture, its mask, where the classifier looked."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.errors import ArtifactDamaged, ObjectNotFound
from dermbatch.images.fitting import tile_size
from dermbatch.records.outcome import ResultRecord
from dermbatch.records.row import read_array
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.batches.outcomes import read_artifact
from orchestrator.similar.patterns import Patterns, patterns_of, patterns_placed

Pixels = npt.NDArray[np.uint8]

_PATTERNS = "patterns.npy"
_TILES, _ORIGINAL, _PURIFIED = 4, 0, 2


def look_of(store: ObjectStore, record: ResultRecord) -> Patterns | None:
    """The local patterns of an image's lesion; none if its record has no picture of it.

    Those of its classifier, if it gives any: either all records of a model have them, or none.

    Raises:
        ObjectNotFound: If its mask was deleted.
        ArtifactDamaged: If a file is no picture.
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    classified = record.stages.get(Stage.CLASSIFY)
    if classified is not None and _PATTERNS in classified.inline.keys() | classified.artifacts.keys():
        return _given(store, record)
    picture = tile_of(record)
    if picture is None:
        return None
    mask = _decoded(read_artifact(store, record, "mask.png"), cv2.IMREAD_GRAYSCALE)
    return patterns_of(picture, mask, _saliency(store, record), record.source.height, record.source.width)


def _given(store: ObjectStore, record: ResultRecord) -> Patterns | None:
    try:
        placed = read_array(read_artifact(store, record, _PATTERNS))
    except ValueError as error:
        raise ArtifactDamaged("a file of a record holds no patterns") from error
    if placed.ndim != 3 or placed.dtype.kind != "f":
        raise ArtifactDamaged("a file of a record holds no patterns")
    return patterns_placed(placed, record.source.height, record.source.width)


def tile_of(record: ResultRecord) -> Pixels | None:
    """The whole image, purified where it was, reduced to a tile of the preview: uint8 [h, w, 3] RGB."""
    if not record.preview_jpeg:
        return None
    strip = _decoded(record.preview_jpeg, cv2.IMREAD_COLOR)
    side = strip.shape[0]
    if strip.shape[1] != _TILES * side:
        return None
    rows, columns = tile_size(record.source.height, record.source.width, side)
    left = side * (_PURIFIED if Stage.PURIFY in record.stages else _ORIGINAL) + (side - columns) // 2
    top = (side - rows) // 2
    return np.asarray(cv2.cvtColor(strip[top : top + rows, left : left + columns], cv2.COLOR_BGR2RGB), np.uint8)


def _saliency(store: ObjectStore, record: ResultRecord) -> Pixels | None:
    try:
        return _decoded(read_artifact(store, record, "saliency.png"), cv2.IMREAD_GRAYSCALE)
    except ObjectNotFound:
        return None


def _decoded(body: bytes, how: int) -> Pixels:
    found = cv2.imdecode(np.frombuffer(body, np.uint8), how)
    if found is None:
        raise ArtifactDamaged("a file of a record is not a picture")
    return np.asarray(found, np.uint8)
