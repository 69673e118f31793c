"""Tables of large batches, which lie in parts, as the desk reads them from a real store."""

import numpy as np
import pytest

from dermbatch.errors import ObjectNotFound, StoreUnavailable
from dermbatch.records.row import row_of, sent
from dermbatch.store import ObjectStore
from desk.results import files
from desk.results.files import pieces
from desk.results.query import Query
from desk.results.table import Cache, ClosedTable
from desk.results.view import View, ViewedBatch
from orchestrator.reporting.table.columns import rows_of
from orchestrator.reporting.table.parts import ONE_FILE, Parts
from tests.outcome_samples import batch_of, failure_of, result_of


def test_parts_are_one_table_in_the_order_of_the_images(empty_store):
    store = ObjectStore(empty_store)
    parts = Parts(store, batch_of("large", ONE_FILE + 1))
    made = [
        parts.write(rows_of([sent(row_of(record)) for record in records]))
        for records in (
            [result_of("large", 4, probabilities=(0.9, 0.05, 0.05)), failure_of("large", 1)],
            [result_of("large", 0), result_of("large", 3, probabilities=(0.8, 0.1, 0.1)), failure_of("large", 5)],
        )
    ]
    assert pieces(store, "large") == []  # not before it is complete
    parts.end(made, [])
    found = pieces(store, "large")
    assert len(found) == 2
    table = ClosedTable(store, found, Cache(1 << 20))
    assert table.columns(["index", "name"])["index"].to_pylist() == [0, 1, 3, 4, 5]
    view = View([ViewedBatch("large", table)], Query("probability:>=0.8"), "", {})
    assert [int(index) for _, index in view.pairs(view.order)] == [3, 4]
    assert view.row_of(0, 4) == 3
    exported = [row for group in view.tables() for row in group.to_pylist()]
    assert {(row["index"], row["name"]) for row in exported} == {(n, f"folder/{n:06d}.jpg") for n in (3, 4)}


class Counted(ObjectStore):
    """Counts the bytes of ranges."""

    asked = 0

    def span(self, bucket, key, start, length, *, etag=None):
        self.asked += length
        return super().span(bucket, key, start, length, etag=etag)


def large(store, images=40, embedding=3000):
    """A batch in two parts of every other image, none missing."""
    parts, vector = (
        Parts(store, batch_of("large", ONE_FILE + 1)),
        np.random.default_rng(0).random(embedding, np.float32),
    )
    made = [
        parts.write(rows_of([sent(row_of(result_of("large", n, vector=vector * n))) for n in numbers]))
        for numbers in (range(0, images, 2), range(1, images, 2))
    ]
    parts.end(made, [])
    return pieces(store, "large")


def test_of_parts_the_bytes_of_wanted_columns_alone_are_read(empty_store, monkeypatch):
    monkeypatch.setattr(files, "_AT_ONCE", 0)
    monkeypatch.setattr(files, "_TAIL", 64)  # shorter than a footer, which is asked for then
    monkeypatch.setattr(files, "_GAP", 1 << 10)
    store = Counted(empty_store)
    found = large(store)
    table = ClosedTable(store, found, Cache(1 << 20))
    assert table.indices.tolist() == list(range(40))  # by the manifest
    view = View([ViewedBatch("large", table)], Query(""), "", {})
    assert [card["name"] for card in view.cards(view.order[5:8])] == [f"folder/{n:06d}.jpg" for n in (5, 6, 7)]
    assert table.columns(["index"])["index"].to_pylist() == list(range(40))
    size = sum(piece.size for piece in found)
    assert store.asked < size / 3
    whole = [row for _, group in table.groups() for row in group.to_pylist()]
    assert sorted(row["index"] for row in whole) == list(range(40))
    assert {len(row["embedding"]) for row in whole} == {3000}


def test_a_part_that_vanished_or_was_replaced_meanwhile_is_an_error_of_its_own(empty_store):
    store = ObjectStore(empty_store)
    found = large(store, embedding=4)
    table = ClosedTable(store, found, Cache(1 << 20))
    store.put(found[1].key, b"another", "application/octet-stream")
    with pytest.raises(StoreUnavailable):
        table.columns(["label"])
    store.delete(found[1].key)
    with pytest.raises(ObjectNotFound):
        table.columns(["label"])
