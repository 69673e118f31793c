"""The tables of batches that one replica has at hand; the store is asked each time which is the latest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from dermbatch import layout
from dermbatch.store import ObjectStore
from desk.problems import Problem
from desk.results.files import Piece, pieces
from desk.results.query import Query
from desk.results.running import Running
from desk.results.table import Cache, ClosedTable, Table
from desk.results.view import View, ViewedBatch
from orchestrator.batches.entries import named

_CACHE_BYTES = 80 << 20
_TABLES = 32
_MOST_BATCHES = 50


class Shelf:
    """Tables, shared by all threads."""

    def __init__(self) -> None:
        self._cache = Cache(_CACHE_BYTES)
        self._lock = threading.Lock()
        self._stored: OrderedDict[str, tuple[list[Piece], ClosedTable]] = OrderedDict()
        self._running: OrderedDict[str, Running] = OrderedDict()
        self._deidentified: OrderedDict[str, bool] = OrderedDict()

    def view(
        self, store: ObjectStore, batches: Sequence[str], q: str, sort: str, sets: dict[str, set[tuple[str, int]]]
    ) -> View:
        """What is asked for.

        Raises:
            UsageError: If there is no such batch.
            Problem: 400, where the query is none.
        """
        if not 0 < len(batches) <= _MOST_BATCHES:
            raise Problem(
                400,
                "usage",
                f"name 1 to {_MOST_BATCHES} batches",
                at={"in": "query", "parameter": "batch"},
            )
        query = Query(q)
        parts = [self._part(store, name) for name in dict.fromkeys(batches)]
        return View(parts, query, sort, sets)

    def _part(self, store: ObjectStore, name: str) -> ViewedBatch:
        table = self.table(store, name)
        with self._lock:
            known = self._deidentified.get(table.version)
        if known is None:
            known = named(store, name).order.deidentified is not None
            with self._lock:
                self._deidentified[table.version] = known
                while len(self._deidentified) > _TABLES:
                    self._deidentified.popitem(last=False)
        return ViewedBatch(name, table, known)

    def table(self, store: ObjectStore, batch: str) -> Table:
        """The table of a batch: the written one if it has closed, else the rows so far."""
        layout.check_batch_name(batch)
        found = pieces(store, batch)
        if not found:
            return self._of_records(store, batch)
        with self._lock:
            held = self._stored.get(batch)
            if held is not None and held[0] == found:
                self._stored.move_to_end(batch)
                return held[1]
        table = ClosedTable(store, found, self._cache)
        with self._lock:
            self._stored[batch] = found, table
            self._running.pop(batch, None)
            while len(self._stored) > _TABLES:
                self._stored.popitem(last=False)
        return table

    def _of_records(self, store: ObjectStore, name: str) -> Table:
        batch = named(store, name)
        with self._lock:
            running = self._running.get(name)
            if running is None or running.batch.created != batch.created:
                running = self._running[name] = Running(batch)
            while len(self._running) > _TABLES:
                self._running.popitem(last=False)
        return running.table(store, batch)
