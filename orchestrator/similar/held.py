"""The description of an index of embeddings, as it lies in the object store beside the results."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from pydantic import Field

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, PermanentError
from dermbatch.records.asked import Record, Stored
from dermbatch.records.outcome import ModelUsed, Written
from dermbatch.store import ObjectStore
from dermbatch.stored import parsed, written_as

REBUILD = "rebuild it: dermbatch cases rebuild"


class IndexShard(Record):
    """The cases of one batch: codes of their embeddings, and what they are refined by."""

    batch: str
    rows: int
    key: str
    written: Written
    passed_over: int = Field(default=0, description="images of the batch whose embedding has no direction")


class TrainedCodes(Record):
    """How embeddings are turned into codes, if they are too many to be kept as they are."""

    key: str
    written: Written
    on: int = Field(description="number of embeddings that it was fitted to")


class Index(Stored):
    """An index of the embeddings of one model; ``similar/<model>/index.json``, replaced as a whole."""

    version: int = Field(description="version of the index, one more with each change")
    model: ModelUsed
    dimension: int
    made: datetime
    trained: TrainedCodes | None = Field(
        default=None, description="how embeddings become codes; none: they are kept in 16 bits"
    )
    shards: tuple[IndexShard, ...] = ()
    taken: dict[str, datetime] = Field(default={}, description="batches that were taken, and when they closed")

    @property
    def cases(self) -> int:
        """How many it holds."""
        return sum(shard.rows for shard in self.shards)

    @property
    def passed_over(self) -> int:
        """How many images of these batches it cannot hold."""
        return sum(shard.passed_over for shard in self.shards)

    def of(self, tenant: str) -> Self:
        """The part of it that comes from one tenant's batches."""
        shards = tuple(shard for shard in self.shards if layout.is_owned(shard.batch, tenant))
        return self.model_copy(update={"shards": shards})


class Forbidden(Stored):
    """An image that is never shown as a similar case; ``similar/forbidden/<sha256>.json``."""

    sha256: str
    why: str = ""
    at: datetime


def read_index(store: ObjectStore, model: str) -> tuple[Index, str | None] | None:
    """The index of a model's embeddings and its ETag; none if there is none.

    Args:
        store: Where it is.
        model: Digest of the model's file, or its first 16 digits.

    Raises:
        PermanentError: With reason ``index_damaged``, if it is no index, or that of another model.
        NewerFormat: If a later version has written it.
    """
    key = layout.similar_index(model)
    try:
        body, etag = store.read(store.bucket, key)
    except ObjectNotFound:
        return None
    try:
        found = parsed(body, Index, key)
    except PermanentError as error:
        raise damaged(str(error)) from error
    if not found.model.sha256.startswith(model):
        raise damaged(f"{key} says that it holds embeddings of another model ({found.model.sha256[:12]})")
    return found, etag


def indexed(store: ObjectStore) -> list[str]:
    """The first digits of the models' digests that there are indexes of."""
    ours = {layout.FORBIDDEN.removeprefix(layout.SIMILAR).rstrip("/")}
    return [name for name in store.folders(store.bucket, layout.SIMILAR) if name not in ours]


def read_file(store: ObjectStore, key: str, written: Written) -> bytes:
    """A file of an index, as it was written.

    Raises:
        PermanentError: With reason ``index_damaged``, where it is gone, cut off or another.
    """
    try:
        body = store.get(store.bucket, key)
    except ObjectNotFound as error:
        raise damaged(f"{key} is missing") from error
    if written_as(body) != written:
        raise damaged(f"{key} is not what was written")
    return body


def damaged(what: str) -> PermanentError:
    """The error of an index that cannot be used."""
    return PermanentError(f"the index of similar cases is damaged: {what}; {REBUILD}", reason="index_damaged")
