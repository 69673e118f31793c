"""The artifacts of one image: pictures in the object store under their stage keys, small files in the record."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from dermbatch import layout
from dermbatch.errors import ArtifactDamaged, ObjectBrokeOff, ObjectNotFound
from dermbatch.images import difference
from dermbatch.models.served import Array
from dermbatch.pictures import Picture, differences, digest, encoded
from dermbatch.records.outcome import Difference, StageRecord, Written
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import checked, written_as

INLINE = frozenset({"border.png", "embedding.npy", "saliency.png", "visualbackprop.png"})
"""Files that the stage's record carries: one more request an image would cost more than their bytes."""

_INLINE_MOST = 65_536  # bytes; a model may give large maps, and reading many records means reading these too

_TYPES = {"png": "image/png", "npy": "application/octet-stream"}
_OF_DIFFERENCES = "application/octet-stream"


def load(store: ObjectStore, record: StageRecord, name: str) -> bytes:
    """One artifact of a stage.

    Raises:
        ObjectNotFound: If it was deleted.
        ArtifactDamaged: If it is not what was written.
    """
    if name in record.inline:
        return record.inline[name]
    return checked(store.get(store.bucket, record.artifacts[name]), record, name)


def is_whole(store: ObjectStore, record: StageRecord) -> bool:
    """Whether all artifacts of a stage are as they were written; reads each of them."""
    try:
        for name in record.artifacts.keys() - record.inline.keys() - record.differences.keys():
            load(store, record, name)
        for kept in record.differences.values():
            differences(store, kept)
    except (ArtifactDamaged, ObjectBrokeOff, ObjectNotFound):
        return False
    return True


def listed_whole(
    store: ObjectStore, sha256: str, found: Mapping[Stage, StageRecord], pool: str | None = None
) -> dict[Stage, StageRecord]:
    """The stages whose artifacts all exist in the size in which they were written, according to one listing.

    Args:
        store: Where they lie.
        sha256: Digest of the image.
        found: What is known of it.
        pool: The pool of artifacts to look in.
    """
    if not any(_objects(record) for record in found.values()):
        return dict(found)
    sizes = {info.key: info.size for info in store.list(store.bucket, layout.artifacts(sha256, pool))}
    return {stage: record for stage, record in found.items() if _is_listed(record, sizes)}


def _objects(record: StageRecord) -> dict[str, Written | None]:
    """Keys of the objects of a stage's artifacts, and what was written there."""
    names = record.artifacts.keys() - record.inline.keys() - record.differences.keys()
    files = {record.artifacts[name]: record.written.get(name) for name in names}
    return files | {kept.key: kept.written for kept in record.differences.values() if kept.key is not None}


def _is_listed(record: StageRecord, sizes: Mapping[str, int]) -> bool:
    for key, written in _objects(record).items():
        size = sizes.get(key)
        if size is None or (written is not None and size != written.bytes):
            return False
    return True


def save(
    store: ObjectStore, record: StageRecord, made: Mapping[str, Array], source: Picture | None = None
) -> StageRecord:
    """Write a stage's artifacts, replacing what an interrupted attempt may have left.

    Args:
        store: Where they go.
        record: The stage's.
        made: The artifacts by file name.
        source: The image, uint8 [H, W, 3] RGB, if pictures like it are to be kept as differences from it.

    Returns:
        The record, with the small files in it.
    """
    kept = {name: one for name, array in made.items() if (one := _difference(store, record, name, array, source))}
    files = {name: encode(name, array) for name, array in made.items() if name not in kept}
    small = {name: body for name, body in files.items() if name in INLINE and len(body) <= _INLINE_MOST}
    for name in files.keys() - small.keys():
        store.put(record.artifacts[name], files[name], _TYPES[name.rpartition(".")[2]])
    written = {name: written_as(body) for name, body in files.items() if name not in small}
    return record.model_copy(update={"inline": small, "written": written, "differences": kept})


def _difference(
    store: ObjectStore, record: StageRecord, name: str, array: Array, source: Picture | None
) -> Difference | None:
    """A picture as its difference from the source, written as an object if large; none if it is kept in full."""
    body = difference.encode(array, source) if source is not None else None
    if body is None:
        return None
    if len(body) <= _INLINE_MOST:
        return Difference(pixels=digest(array), body=body, written=written_as(body))
    key = f"{record.artifacts[name].rpartition('.')[0]}.diff"
    store.put(key, body, _OF_DIFFERENCES)
    return Difference(pixels=digest(array), key=key, written=written_as(body))


def encode(name: str, array: Array) -> bytes:
    """An array as a file of the kind that the name says: .png (uint8 pictures and masks) or .npy (any)."""
    if name.endswith(".png"):
        return encoded(array)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
