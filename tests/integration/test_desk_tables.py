"""Tables of large batches, which lie in parts, as the desk reads them from a real store."""

from dermbatch.records.row import row_of, sent
from dermbatch.store import ObjectStore
from desk.results.files import pieces
from desk.results.query import Query
from desk.results.table import Cache, Stored
from desk.results.view import Part, View
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
    assert pieces(store, "large") == []  # not before it is whole
    parts.end(made, [])
    found = pieces(store, "large")
    assert len(found) == 2
    table = Stored(store, found, Cache(1 << 20))
    assert table.columns(["index", "name"])["index"].to_pylist() == [0, 1, 3, 4, 5]
    view = View([Part("large", table)], Query("probability:>=0.8"), "", {})
    assert [int(index) for _, index in view.pairs(view.order)] == [3, 4]
    assert view.row_of(0, 4) == 3
    exported = [row for group in view.tables() for row in group.to_pylist()]
    assert {(row["index"], row["name"]) for row in exported} == {(n, f"folder/{n:06d}.jpg") for n in (3, 4)}
