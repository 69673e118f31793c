"""An index grows with the batches that close, and can be rebuilt by a command."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog

from dermbatch import layout
from dermbatch.errors import ArtifactDamaged, NewerFormat, ObjectNotFound, PermanentError, StoreUnavailable
from dermbatch.records.asked import Batch
from dermbatch.records.outcome import ModelUsed
from dermbatch.store import ObjectStore
from dermbatch.stored import written_as
from orchestrator.batches.entries import batch_names, read_batch
from orchestrator.batches.outcomes import in_order
from orchestrator.batches.summary import read_summary
from orchestrator.similar import cases
from orchestrator.similar.codes import EXACT, Coder, train
from orchestrator.similar.held import Index, IndexShard, TrainedCodes, indexed, read_file, read_index

_log = structlog.get_logger(__name__)

_PARQUET, _FAISS = "application/vnd.apache.parquet", "application/octet-stream"
_JSON = "application/json"
_TRIES = 5
_AT_A_TIME = 8
_TRAINED_ON = 100_000


def closed(
    store: ObjectStore, but: dict[str, datetime], tenant: str | None = None
) -> Iterator[tuple[str, datetime, int]]:
    """Closed batches, of all tenants or of one, other than these.

    Yields:
        Name, when it closed, and how many results it has.
    """
    names = (name for name in batch_names(store, tenant) if name not in but)
    for name, summary in in_order(lambda name: (name, read_summary(store, name)), names, _AT_A_TIME):
        if summary is not None:
            yield name, summary.closed, summary.done


def indexes(store: ObjectStore) -> list[Index]:
    """The indexes that there are, one of a model.

    Raises:
        PermanentError: With reason ``index_damaged``.
    """
    found = (read_index(store, name) for name in indexed(store))
    return [index for index, _ in filter(None, found)]


def waiting(store: ObjectStore, index: Index, tenant: str | None = None) -> int:
    """How many images with a result in closed batches, of all tenants or one, an index does not hold yet."""
    return sum(done for _, _, done in closed(store, index.taken, tenant))


def grow(store: ObjectStore, model: str, batch: str | None = None) -> Index | None:
    """Add to a model's index what it does not hold yet; none if there is no index.

    Batches that were closed again since are added again, and deleted ones are dropped. Safe to repeat, and to run
    in parallel with others that do the same.

    Args:
        store: Where index and batches are.
        model: Digest of the model's file.
        batch: A batch that has just closed: only this one is looked at.

    Raises:
        PermanentError: With reason ``index_damaged``.
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    for _ in range(_TRIES):
        found = read_index(store, model)
        if found is None:
            return None
        index, etag = found
        now = _now(store, index, batch)
        if now == index.taken:
            return index
        grown = _grown(store, index, now)
        if store.put_if_match(layout.similar_index(model), grown.to_json(), _JSON, etag) is not None:
            return grown
    raise StoreUnavailable("the index of similar cases is being changed by others; trying again")


def _now(store: ObjectStore, index: Index, batch: str | None) -> dict[str, datetime]:
    """The batches that are closed, or those that were taken and one more."""
    if batch is None:
        return {name: when for name, when, _ in closed(store, {})}
    summary = read_summary(store, batch)
    return index.taken if summary is None else index.taken | {batch: summary.closed}


def _grown(store: ObjectStore, index: Index, now: dict[str, datetime]) -> Index:
    coder = Coder(index.dimension, _trained(store, index.trained))
    fresh = [name for name, when in now.items() if index.taken.get(name) != when]
    held = tuple(one for one in index.shards if one.batch in now and one.batch not in fresh)
    changes = {"shards": (*held, *_shards(store, fresh, index.model, coder)), "taken": now}
    return index.model_copy(update=changes | {"version": index.version + 1, "made": datetime.now(UTC)})


def rebuild(store: ObjectStore, model: str | None = None) -> list[Index]:
    """Rebuild the indexes from all closed batches: for each model that has embeddings, or for one.

    An existing index stays in use until the new one is complete.

    Raises:
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    now = {name: when for name, when, _ in closed(store, {})}
    found = _models(store, list(now))
    return [_rebuilt(store, one, dimension, now) for one, dimension in found if model in {None, one.sha256}]


def _rebuilt(store: ObjectStore, model: ModelUsed, dimension: int, taken: dict[str, datetime]) -> Index:
    key = layout.similar_index(model.sha256)
    before = _version(store, model.sha256)
    trained = _train(store, list(taken), model)
    coder = Coder(dimension, None if trained is None else read_file(store, trained.key, trained.written))
    index = Index(
        version=before + 1,
        model=model,
        dimension=dimension,
        made=datetime.now(UTC),
        trained=trained,
        shards=_shards(store, list(taken), model, coder),
        taken=taken,
    )
    store.put(key, index.to_json(), _JSON)
    _tidy(store, index)
    return index


def _version(store: ObjectStore, model: str) -> int:
    try:
        found = read_index(store, model)
    except PermanentError:  # it is damaged, which is why it is rebuilt
        return 0
    return found[0].version if found is not None else 0


def _models(store: ObjectStore, names: list[str]) -> list[tuple[ModelUsed, int]]:
    """The models whose embeddings these batches have, and their dimensions."""
    found: dict[str, tuple[ModelUsed, int]] = {}
    for rows in (rows for name in names for rows in _rows(store, name)):
        for sha256, (name, version) in cases.models_of(rows).items():
            first = cases.of_model(rows, sha256)["embedding"][0]
            found.setdefault(sha256, (ModelUsed(name=name, version=version, sha256=sha256), len(first)))
    return list(found.values())


def _rows(store: ObjectStore, name: str) -> Iterator[pa.Table]:
    """What a batch has for an index; nothing if it is damaged, so that others need not wait for it."""
    try:
        for body in cases.tables(store, name):
            rows = cases.rows_of(body)
            if len(rows):
                yield rows
    except (ObjectNotFound, ArtifactDamaged, pa.ArrowException) as error:
        _log.warning("table passed over", batch=name, error=type(error).__name__)


def _embeddings(rows: pa.Table, dimension: int) -> npt.NDArray[np.float32] | None:
    try:
        found = cases.embeddings_of(rows)
    except ValueError:
        return None
    return found if found.shape[1] == dimension else None


def _shards(store: ObjectStore, names: list[str], model: ModelUsed, coder: Coder) -> tuple[IndexShard, ...]:
    made = (shard for name in names for shard in _shards_of(store, name, model, coder))
    return tuple(made)


def _shards_of(store: ObjectStore, name: str, model: ModelUsed, coder: Coder) -> Iterator[IndexShard]:
    try:
        batch = read_batch(store, name)
    except (ObjectNotFound, PermanentError, NewerFormat):
        return
    for table in _rows(store, name):
        found = cases.of_model(table, model.sha256)
        rows = cases.directed(found)
        passed_over = len(found) - len(rows)
        if passed_over:
            _log.warning("embeddings without a direction skipped", batch=name, images=passed_over)
        vectors = _embeddings(rows, coder.dimension) if len(rows) else None
        if vectors is not None:
            body = cases.kept(rows, batch, coder.encode(vectors))
            yield _write(store, batch, model, body, len(rows), passed_over)


def _write(
    store: ObjectStore, batch: Batch, model: ModelUsed, body: bytes, rows: int, passed_over: int
) -> IndexShard:
    """A shard is named by the digest of its bytes, so writing the same again writes the same object."""
    digest = hashlib.sha256(body).hexdigest()[:16]
    key = layout.similar_file(model.sha256, f"shards/{batch.name}-{digest}.parquet")
    store.put(key, body, _PARQUET)
    return IndexShard(batch=batch.name, rows=rows, key=key, written=written_as(body), passed_over=passed_over)


def _train(store: ObjectStore, names: list[str], model: ModelUsed) -> TrainedCodes | None:
    """Fit what makes codes, if there are too many embeddings to keep them as they are."""
    parts: list[npt.NDArray[np.float32]] = []
    for found in (cases.of_model(rows, model.sha256) for name in names for rows in _rows(store, name)):
        if len(rows := cases.directed(found)):
            parts.append(cases.embeddings_of(rows))
        if sum(map(len, parts)) >= _TRAINED_ON:
            break
    some = np.concatenate(parts) if parts else np.empty((0, 1), np.float32)
    if len(some) <= EXACT:
        return None
    body = train(some)
    key = layout.similar_file(model.sha256, f"trained-{hashlib.sha256(body).hexdigest()[:16]}.faiss")
    store.put(key, body, _FAISS)
    return TrainedCodes(key=key, written=written_as(body), on=len(some))


def _trained(store: ObjectStore, trained: TrainedCodes | None) -> bytes | None:
    return None if trained is None else read_file(store, trained.key, trained.written)


def _tidy(store: ObjectStore, index: Index) -> None:
    """Delete files of the previous index; whoever is loading it finds them gone, and reads the index again."""
    named = {shard.key for shard in index.shards} | {layout.similar_index(index.model.sha256)}
    named |= {index.trained.key} if index.trained is not None else set()
    for info in list(store.list(store.bucket, layout.similar_file(index.model.sha256, ""))):
        if info.key not in named:
            store.delete(info.key)
