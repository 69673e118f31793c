"""Cases: rows of a batch's table that an index can hold, with the columns that searches are refined by."""

from __future__ import annotations

import re
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dermbatch import layout
from dermbatch.errors import ObjectNotFound
from dermbatch.records.asked import Batch
from dermbatch.store import ObjectStore
from dermbatch.stored import read
from orchestrator.reporting.table import columns
from orchestrator.reporting.table.parts import TableManifest

PSEUDONYM = re.compile(r"(?:^|/)(P-[0-9a-f]{20})/")

_READ = ("index", "name", "sha256", "media_type", "label", "probability", "finished", "embedding", "flags")
_OURS = ("outcome", "lesion", "classify_model", "classify_version", "classify_sha256")
_KEPT = ("index", "name", "sha256", "label", "probability", "finished")
_UNUSUAL = "not_dermoscopic"


def tables(store: ObjectStore, batch: str) -> list[bytes]:
    """The files of a closed batch's table, if it has one."""
    try:
        return [store.get(store.bucket, layout.table(batch))]
    except ObjectNotFound:
        pass
    try:
        named = read(store, layout.table_manifest(batch), TableManifest).parts
    except ObjectNotFound:
        return []
    return [store.get(store.bucket, f"{layout.table_parts(batch)}{part.name}") for part in named]


def rows_of(body: bytes) -> pa.Table:
    """The rows of a table's file that have an embedding of a lesion: of all models."""
    found = pq.read_table(BytesIO(body), columns=[*_READ, *_OURS])
    usable = pc.and_kleene(pc.equal(found["outcome"], "done"), pc.equal(found["lesion"], True))
    found = found.filter(pc.and_kleene(usable, pc.is_valid(found["embedding"])))
    usual = [_UNUSUAL not in (flags or ()) for flags in found["flags"].to_pylist()]
    return found.filter(pa.array(usual, pa.bool_()))


def models_of(rows: pa.Table) -> dict[str, tuple[str, str]]:
    """Models by the digest of their files: name and version."""
    models = rows.select(["classify_sha256", "classify_model", "classify_version"]).to_pylist()
    return {one["classify_sha256"]: (one["classify_model"], one["classify_version"]) for one in models}


def of_model(rows: pa.Table, sha256: str) -> pa.Table:
    """The rows of one model's embeddings."""
    return rows.filter(pc.equal(rows["classify_sha256"], sha256))


def directed(rows: pa.Table) -> pa.Table:
    """The rows whose embedding has a direction: not all zeros, and all of it finite."""
    vectors = (np.asarray(one.values, np.float64) for one in rows["embedding"])
    lengths = [float(np.linalg.norm(one)) for one in vectors]
    return rows.filter(pa.array([bool(np.isfinite(length)) and length > 0 for length in lengths], pa.bool_()))


def embeddings_of(rows: pa.Table) -> npt.NDArray[np.float32]:
    """Embeddings [N, D] of unit length.

    Raises:
        ValueError: If their dimensions differ, or one has no direction: see :func:`directed`.
    """
    vectors = np.stack([np.asarray(one.values, np.float32) for one in rows["embedding"]])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise ValueError("an embedding without a direction")
    return np.asarray(vectors / lengths, np.float32)


def kept(rows: pa.Table, batch: Batch, codes: npt.NDArray[np.uint8]) -> bytes:
    """A shard's file: one row a case, with its code and whose picture it is if the batch's names tell."""
    salt = batch.order.deidentified.salt if batch.order.deidentified is not None else None
    found = rows.select(list(_KEPT))
    persons = [None if salt is None else _person(name, salt) for name in found["name"].to_pylist()]
    found = found.append_column("batch", pa.array([batch.name] * len(found), pa.string()))
    found = found.append_column("person", pa.array(persons, pa.string()))
    flat = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(codes.shape[1]), len(codes), [None, pa.py_buffer(np.ascontiguousarray(codes).tobytes())]
    )
    return columns.as_parquet(found.append_column("code", flat))


def none() -> pa.Table:
    """A shard without a case, and without codes: its columns."""
    kinds = {"index": pa.int64(), "probability": pa.float64(), "finished": pa.timestamp("us", tz="UTC")}
    names = [*_KEPT, "batch", "person"]
    return pa.schema([(name, kinds.get(name, pa.string())) for name in names]).empty_table()


def codes_of(shard: pa.Table) -> npt.NDArray[np.uint8]:
    """The codes [N, bytes] of a shard."""
    column = shard["code"].combine_chunks()
    width = column.type.byte_width
    raw = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width, column.offset * width)
    return raw.reshape(len(column), width)


def person_of(name: str, batch: Batch) -> str | None:
    """Whose picture a de-identified image is: pseudonym and salt."""
    profile = batch.order.deidentified
    return None if profile is None else _person(name, profile.salt)


def _person(name: str, salt: str) -> str | None:
    found = PSEUDONYM.search(name)
    return None if found is None else f"{found[1]}@{salt}"
