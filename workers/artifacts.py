"""The artifacts of one image in the object store: an action cache, as build systems have it.

A stage's artifacts lie under its stage key. ``stage.json`` is written after them, so where it is, they are whole.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from pydantic import ValidationError

from dermbatch import layout
from dermbatch.records import StageRecord
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from workers import png
from workers.served import Array

RECORD = "stage.json"

_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "json": "application/json",
    "npy": "application/octet-stream",
}


class Artifacts:
    """What is there of one image, listed once.

    Args:
        store: The object store; artifacts are in its result bucket.
        sha256: Digest of the source object.
    """

    def __init__(self, store: ObjectStore, sha256: str) -> None:
        self._store = store
        self._sha256 = sha256
        self._there = {info.key for info in store.list(store.bucket, layout.image_prefix(sha256))}

    def __contains__(self, key: object) -> bool:
        """Whether there was an object of this key when they were listed."""
        return key in self._there

    def find(self, stage: Stage, key: str) -> StageRecord | None:
        """The record of a stage that ran before with this stage key; none where its artifacts are not whole."""
        place = self.place(stage, key, RECORD)
        if place not in self._there:
            return None
        try:
            record = StageRecord.model_validate_json(self._store.get(self._store.bucket, place))
        except ValidationError:  # of a release whose records had other fields
            return None
        whole = record.image is not None and self._there.issuperset(record.artifacts.values())
        return record if whole else None

    def place(self, stage: Stage, key: str, name: str) -> str:
        """Object key of an artifact of a stage."""
        return layout.artifact(self._sha256, stage, key, name)

    def load(self, record: StageRecord, name: str) -> bytes:
        """One artifact of a stage.

        Raises:
            ObjectNotFound: Where it was deleted since it was listed.
        """
        return self._store.get(self._store.bucket, record.artifacts[name])

    def save(self, record: StageRecord, files: Mapping[str, bytes]) -> None:
        """Write a stage's artifacts and then its record, over what an attempt that broke off may have left."""
        for name, body in files.items():
            self.put(record.artifacts[name], body)
        self.put(self.place(record.stage, record.key, RECORD), record.to_json())

    def put(self, key: str, body: bytes) -> None:
        """Write one object."""
        self._store.put(key, body, _TYPES[key.rpartition(".")[2]])


def encode(name: str, array: Array) -> bytes:
    """An array as a file of the kind that its name says: .png (uint8 pictures and masks) or .npy (any)."""
    if name.endswith(".png"):
        return png.encode(array)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
