"""The artifacts of one image: pictures in the object store under their stage keys, small files in the record."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from dermbatch import layout
from dermbatch.models.served import Array
from dermbatch.records.marks import marked_png
from dermbatch.records.outcome import StageRecord
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import checked, written_as
from workers.image import png

INLINE = frozenset({"embedding.npy", "saliency.png"})
"""Files that the stage's record carries: a request an image costs more than their bytes."""

_INLINE_MOST = 65_536  # bytes; a model may give large maps, and whoever reads many records reads these too

_TYPES = {"png": "image/png", "npy": "application/octet-stream"}


def load(store: ObjectStore, record: StageRecord, name: str) -> bytes:
    """One artifact of a stage.

    Raises:
        ObjectNotFound: Where it was deleted.
        ArtifactDamaged: Where it is not what was written.
    """
    if name in record.inline:
        return record.inline[name]
    return checked(store.get(store.bucket, record.artifacts[name]), record, name)


def whole(store: ObjectStore, sha256: str, found: Mapping[Stage, StageRecord]) -> dict[Stage, StageRecord]:
    """Those stages whose artifacts are all there in the size in which they were written, as one listing tells.

    Args:
        store: Where they lie.
        sha256: Of the image.
        found: What is known of it.
    """
    if not any(record.artifacts.keys() - record.inline.keys() for record in found.values()):
        return dict(found)
    sizes = {info.key: info.size for info in store.list(store.bucket, layout.artifacts(sha256))}
    return {stage: record for stage, record in found.items() if _is_whole(record, sizes)}


def _is_whole(record: StageRecord, sizes: Mapping[str, int]) -> bool:
    for name in record.artifacts.keys() - record.inline.keys():
        size, written = sizes.get(record.artifacts[name]), record.written.get(name)
        if size is None or (written is not None and size != written.bytes):
            return False
    return True


def save(store: ObjectStore, record: StageRecord, made: Mapping[str, Array]) -> StageRecord:
    """Write a stage's artifacts, over what an attempt that broke off may have left.

    Returns:
        The record, with the small files in it.
    """
    files = {name: encode(name, array) for name, array in made.items()}
    small = {name: body for name, body in files.items() if name in INLINE and len(body) <= _INLINE_MOST}
    for name in files.keys() - small.keys():
        store.put(record.artifacts[name], files[name], _TYPES[name.rpartition(".")[2]])
    written = {name: written_as(body) for name, body in files.items() if name not in small}
    return record.model_copy(update={"inline": small, "written": written})


def encode(name: str, array: Array) -> bytes:
    """An array as a file of the kind that its name says: .png (uint8 pictures and masks) or .npy (any)."""
    if name.endswith(".png"):
        return marked_png(png.encode(array))
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
