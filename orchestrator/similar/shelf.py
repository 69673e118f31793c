"""Indexes ready for searching: in memory, and read again when they have changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from io import BytesIO
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dermbatch import layout
from dermbatch.errors import PermanentError
from dermbatch.records.outcome import ModelUsed
from dermbatch.store import ObjectStore
from orchestrator.batches.outcomes import in_order
from orchestrator.reporting.table.columns import truths
from orchestrator.similar import cases
from orchestrator.similar.codes import Coder
from orchestrator.similar.facts import Facts, KnownFacts, read_facts
from orchestrator.similar.held import (
    REBUILD,
    Index,
    IndexShard,
    TrainedCodes,
    damaged,
    indexed,
    read_file,
    read_index,
)

_AT_A_TIME = 8

Allowed = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class IndexedCase:
    """A case of an index: where its record is, and what else is known about it."""

    batch: str
    index: int
    name: str
    sha256: str
    label: str | None
    probability: float | None
    finished: datetime
    person: str | None
    facts: Facts


@dataclass(frozen=True)
class Refinement:
    """Which cases to search; without any of these: all.

    Attributes:
        diagnosis: The diagnosis stated by the institution, if any, else the most probable one.
        site: The site stated by the institution, in upper or lower case.
        since, until: When they were taken, if the institution says so, else processed; both inclusive.
    """

    diagnosis: str | None = None
    site: str | None = None
    since: date | None = None
    until: date | None = None


class OpenIndex:
    """An index in memory.

    Args:
        index: What it says of itself.
        coder: Has its codes.
        rows: Its cases in the codes' order, without them.
        facts: What the institution knows of them.
    """

    def __init__(self, index: Index, coder: Coder, rows: pa.Table, facts: KnownFacts) -> None:
        self.index, self.coder, self._rows = index, coder, rows
        self.facts = facts
        self._known = self._facts_of_all() if facts else None

    def case(self, number: int) -> IndexedCase:
        """A case by its number."""
        row: dict[str, Any] = {name: self._rows[name][number].as_py() for name in self._rows.column_names}
        return IndexedCase(**row, facts=self.facts.of(row["sha256"], row["name"]))

    def allowed(self, refinement: Refinement, forbidden: set[str]) -> Allowed:
        """Which cases may be found: a number each."""
        found = np.ones(len(self._rows), bool)
        if forbidden:
            found &= ~truths(pc.is_in(self._rows["sha256"], pa.array(sorted(forbidden), pa.string())))
        if refinement.diagnosis is not None:
            found &= self._equal("diagnosis", refinement.diagnosis, self._rows["label"])
        if refinement.site is not None:
            found &= self._equal("site", refinement.site, None)
        if refinement.since is not None or refinement.until is not None:
            found &= self._between(refinement.since, refinement.until)
        return found

    def _equal(self, what: str, wanted: str, otherwise: pa.ChunkedArray | None) -> Allowed:
        column = otherwise if self._known is None else self._known[what]
        if column is None:
            return np.zeros(len(self._rows), bool)
        if otherwise is not None and self._known is not None:
            column = pc.coalesce(column, otherwise.combine_chunks())
        return truths(pc.equal(pc.utf8_lower(column), wanted.lower()))

    def _between(self, since: date | None, until: date | None) -> Allowed:
        when = pc.cast(self._rows["finished"].combine_chunks(), pa.date32())
        if self._known is not None:
            when = pc.coalesce(self._known["taken"], when)
        days = np.asarray(pc.cast(when, pa.int32()).fill_null(0))
        epoch = date(1970, 1, 1)
        first = (since - epoch).days if since is not None else days.min(initial=0)
        last = (until - epoch).days if until is not None else days.max(initial=0)
        return np.asarray((days >= first) & (days <= last))

    def _facts_of_all(self) -> dict[str, pa.Array]:
        pairs = zip(self._rows["sha256"].to_pylist(), self._rows["name"].to_pylist(), strict=True)
        facts = [self.facts.of(*pair) for pair in pairs]
        return {
            "diagnosis": pa.array([one.diagnosis for one in facts], pa.string()),
            "site": pa.array([one.site for one in facts], pa.string()),
            "taken": pa.array([one.taken for one in facts], pa.date32()),
        }


_Seen = tuple[TrainedCodes | None, tuple[IndexShard, ...], str | None]
"""What an opened index was made of."""


class IndexShelf:
    """Indexes that were opened; safe to share between threads."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str | None], tuple[_Seen, OpenIndex]] = {}
        self._lock = Lock()

    def get(self, store: ObjectStore, model: ModelUsed, tenant: str | None = None) -> OpenIndex:
        """The index of a model's embeddings as it is now; for one tenant, with its cases and facts only.

        Raises:
            PermanentError: With reason ``no_index``, if there is none, or only those of other models, or if it
                holds nothing of the tenant's; or ``index_damaged``.
        """
        with self._lock:
            found = read_index(store, model.sha256)
            index = found and (found[0] if tenant is None else found[0].of(tenant))
            if index is None or not (tenant is None or index.shards):
                raise _missing(store, model, tenant)
            facts, facts_etag = read_facts(store, tenant)
            now = (index.trained, index.shards, facts_etag)
            seen, opened = self._held.get((model.sha256, tenant), (None, None))
            if opened is None or seen != now:
                opened = open_index(store, index, facts)
                self._held[model.sha256, tenant] = now, opened
            opened.index = index
            return opened


def open_index(store: ObjectStore, index: Index, facts: KnownFacts) -> OpenIndex:
    """Bring an index into memory.

    Raises:
        PermanentError: With reason ``index_damaged``.
    """
    trained = None if index.trained is None else read_file(store, index.trained.key, index.trained.written)
    coder = Coder(index.dimension, trained)
    tables: list[pa.Table] = []
    for shard, table in in_order(lambda one: (one, _table(store, one)), index.shards, _AT_A_TIME):
        codes = cases.codes_of(table)
        if len(codes) != shard.rows or codes.shape[1] != coder.code_bytes:
            raise damaged(f"{shard.key} does not have the codes that the index states")
        coder.add(codes)
        tables.append(table.drop_columns(["code"]))
    return OpenIndex(index, coder, pa.concat_tables([cases.none(), *tables]).combine_chunks(), facts)


def _table(store: ObjectStore, shard: IndexShard) -> pa.Table:
    return pq.read_table(BytesIO(read_file(store, shard.key, shard.written)))


def forbidden(store: ObjectStore) -> set[str]:
    """Digests of the images that are never shown."""
    keys = (info.key for info in store.list(store.bucket, layout.FORBIDDEN))
    return {key.removeprefix(layout.FORBIDDEN).removesuffix(".json") for key in keys}


def _missing(store: ObjectStore, model: ModelUsed, tenant: str | None) -> PermanentError:
    others = indexed(store) if tenant is None else []  # which there are depends on others' batches
    missing = f"there is no index of the embeddings of {model.name} {model.version} ({model.sha256[:12]})"
    more = (
        f"; there is one of {', '.join(others)}: embeddings of several models cannot be compared" if others else ""
    )
    return PermanentError(f"{missing}{more}; {REBUILD}", reason="no_index")
