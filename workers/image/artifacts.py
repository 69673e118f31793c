"""The artifacts of one image: pictures in the object store under their stage keys, small files in the record."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from dermbatch.models.served import Array
from dermbatch.records.outcome import StageRecord
from dermbatch.store import ObjectStore
from workers.image import png

INLINE = frozenset({"embedding.npy", "saliency.png"})
"""Files that the stage's record carries: a request an image costs more than their bytes."""

_INLINE_MOST = 65_536  # bytes; a model may give large maps, and whoever reads many records reads these too

_TYPES = {"png": "image/png", "npy": "application/octet-stream"}


def load(store: ObjectStore, record: StageRecord, name: str) -> bytes:
    """One artifact of a stage.

    Raises:
        ObjectNotFound: Where it was deleted.
    """
    if name in record.inline:
        return record.inline[name]
    return store.get(store.bucket, record.artifacts[name])


def save(store: ObjectStore, record: StageRecord, made: Mapping[str, Array]) -> StageRecord:
    """Write a stage's artifacts, over what an attempt that broke off may have left.

    Returns:
        The record, with the small files in it.
    """
    files = {name: encode(name, array) for name, array in made.items()}
    small = {name: body for name, body in files.items() if name in INLINE and len(body) <= _INLINE_MOST}
    for name in files.keys() - small.keys():
        store.put(record.artifacts[name], files[name], _TYPES[name.rpartition(".")[2]])
    return record.model_copy(update={"inline": small})


def encode(name: str, array: Array) -> bytes:
    """An array as a file of the kind that its name says: .png (uint8 pictures and masks) or .npy (any)."""
    if name.endswith(".png"):
        return png.encode(array)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
