import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from dermbatch import layout
from dermbatch.records.asked import BatchSummary
from dermbatch.stages import ORDER, Stage
from dermbatch.store import ObjectStore
from orchestrator.reporting.closing import close
from tests.outcome_samples import (
    LABELS,
    batch_of,
    entry_of,
    failure_of,
    result_of,
    write_manifest,
    write_record,
)


@pytest.fixture
def store(empty_store):
    return ObjectStore(empty_store)


def body(store, key):
    return store.get(store.bucket, key)


def table(store, name):
    return pq.read_table(io.BytesIO(body(store, layout.table(name)))).to_pylist()


def keys(store, name):
    return {
        info.key.removeprefix(layout.batch_prefix(name)) for info in store.list(store.bucket, f"batches/{name}/")
    }


ENDS = {"results.parquet", "report.html", "summary.json"}


def test_a_batch_with_missing_records_names_them_and_writes_nothing(store):
    batch = batch_of("b", 2003)
    write_manifest(store, batch, map(entry_of, range(2003)))
    before = keys(store, "b")
    write_record(store, result_of("b", 0))
    write_record(store, failure_of("b", 2002))
    closing = close(store, batch, "finished", 2, 4)
    assert closing.summary is None
    assert closing.missing == tuple(range(1, 2002))
    assert keys(store, "b") == before | {"results/000000/0.json", "failed/000002/2.json"}


def test_every_outcome_is_in_the_table_in_order_and_in_the_summary(store):
    batch = batch_of("b", 30, duplicates=1)
    write_manifest(store, batch, [entry_of(i, duplicate_of=1 if i == 4 else None) for i in range(30)])
    for index in range(30):
        write_record(store, failure_of("b", index) if index % 10 == 3 else result_of("b", index, mm=0.05))
    closing = close(store, batch, "finished", 6, 4)
    rows = table(store, "b")
    assert [row["index"] for row in rows] == list(range(30))
    assert [row["index"] for row in rows if row["outcome"] == "failed"] == [3, 13, 23]
    assert rows[3]["reason"] == "truncated"
    assert rows[3]["name"] == "folder/000003.jpg"
    assert rows[3]["label"] is None
    assert [row["duplicate_of"] for row in rows if row["duplicate_of"] is not None] == [1]
    done = rows[5]
    assert (done["label"], done["probability"]) == ("nevus", 0.7)
    assert [done[f"probability_{label}"] for label in LABELS] == [0.2, 0.7, 0.1]
    assert done["embedding"] == [5, 6, 7, 8]
    assert done["diameter_mm"] == 5.5
    assert done["mask_png"] == result_of("b", 5).stages[Stage.SEGMENT].artifacts["mask.png"]
    assert done["segment_seconds"] == 0.1
    summary = BatchSummary.model_validate_json(body(store, layout.summary("b")))
    assert summary == closing.summary
    assert (summary.state, summary.done, summary.failed, summary.slots) == ("finished", 27, 3, 6)
    assert summary.reasons == {"truncated": 3}
    assert summary.stage_runs == dict.fromkeys(ORDER, 27)
    assert summary.image_seconds == pytest.approx(1)
    assert summary.first_started == result_of("b", 0).started
    assert summary.last_finished == result_of("b", 29).finished


def test_closing_again_gives_the_same(store):
    batch = batch_of("b", 320)
    write_manifest(store, batch, map(entry_of, range(320)))
    for index in range(320):
        write_record(store, result_of("b", index, preview=b"", flags=("no_lesion",) if index % 3 else ()))

    def ends():
        close(store, batch, "finished", 1, 4)
        summary = json.loads(body(store, layout.summary("b")))
        del summary["closed"]
        return [body(store, layout.report("b")), table(store, "b"), summary]

    first = ends()
    store.delete(layout.summary("b"))  # as if the first closing had been killed before its last write
    assert ends() == first


def test_a_result_counts_over_a_failure_of_the_same_image(store):
    batch = batch_of("b", 1)
    write_manifest(store, batch, [entry_of(0)])
    write_record(store, failure_of("b", 0))
    write_record(store, result_of("b", 0))
    summary = close(store, batch, "finished", 1, 2).summary
    assert (summary.done, summary.failed, summary.reasons) == (1, 0, {})


@pytest.mark.parametrize("damage", [b"", b"{", b'{"batch": "b"}', result_of("other", 1).to_json()])
def test_a_damaged_record_is_a_failure_and_the_batch_closes(store, damage):
    batch = batch_of("b", 3)
    write_manifest(store, batch, map(entry_of, range(3)))
    write_record(store, result_of("b", 0))
    write_record(store, failure_of("b", 2))
    store.put(layout.result("b", 1), damage, "application/json")
    summary = close(store, batch, "finished", 1, 2).summary
    assert summary.reasons == {"record_damaged": 1, "truncated": 1}
    damaged = table(store, "b")[1]
    assert (damaged["reason"], damaged["name"], damaged["source"]) == (
        "record_damaged",
        "folder/000001.jpg",
        "s3://incoming/b/1",
    )
    assert "1 records cannot be read" in body(store, layout.report("b")).decode()


@pytest.mark.parametrize("manifest", [None, b'{"index": 0, "na\n\n[]\n'])
def test_a_damaged_manifest_does_not_keep_a_batch_from_closing(store, manifest):
    batch = batch_of("b", 2)
    if manifest is not None:
        store.put(layout.manifest_part("b", "000000"), manifest, "application/x-ndjson")
    write_record(store, result_of("b", 0))
    write_record(store, failure_of("b", 1))
    assert close(store, batch, "finished", 1, 2).summary.done == 1
    assert [row["name"] for row in table(store, "b")] == ["folder/000000.jpg", "folder/000001.jpg"]


def test_a_cancelled_batch_closes_with_what_it_has(store):
    batch = batch_of("b", 2500)
    write_manifest(store, batch, map(entry_of, range(2500)))
    write_record(store, result_of("b", 2400))
    summary = close(store, batch, "cancelled", 1, 2).summary
    assert (summary.state, summary.images, summary.done, summary.failed) == ("cancelled", 2500, 1, 0)
    assert [row["index"] for row in table(store, "b")] == [2400]
    assert "This batch was cancelled" in body(store, layout.report("b")).decode()


def test_a_batch_cancelled_before_it_began_has_an_empty_table_with_all_columns(store):
    batch = batch_of("b", 5)
    write_manifest(store, batch, map(entry_of, range(5)))
    close(store, batch, "cancelled", 0, 2)
    empty = pq.read_table(io.BytesIO(body(store, layout.table("b"))))
    assert empty.num_rows == 0
    assert {"index", "outcome", "label", "embedding", "area_mm2"} <= set(empty.column_names)


def test_labels_that_appear_late_have_a_column_from_the_first_row_on(store):
    batch = batch_of("b", 1200)
    write_manifest(store, batch, map(entry_of, range(1200)))
    for index in range(1199):
        write_record(store, failure_of("b", index))
    write_record(store, result_of("b", 1199, embedding=1280))
    close(store, batch, "finished", 1, 4)
    rows = table(store, "b")
    assert len(rows) == 1200
    assert rows[0]["probability_nevus"] is None
    assert rows[1199]["probability_nevus"] == 0.7
    np.testing.assert_array_equal(rows[1199]["embedding"], np.arange(1280, dtype=np.float32) + 1199)


def test_stages_from_the_cache_and_stages_not_asked_for_are_told_apart_from_run_ones(store):
    batch = batch_of("b", 2)
    write_manifest(store, batch, map(entry_of, range(2)))
    write_record(store, result_of("b", 0, cached=tuple(ORDER)))
    write_record(store, result_of("b", 1, stages=(Stage.PURIFY, Stage.SEGMENT), cached=(Stage.PURIFY,)))
    summary = close(store, batch, "finished", 1, 2).summary
    assert summary.stage_runs == {Stage.SEGMENT: 1}
    first, second = table(store, "b")
    assert (first["purify_cached"], first["purify_seconds"]) == (True, None)
    assert (second["segment_cached"], second["segment_seconds"]) == (False, 0.1)
    assert second["classify_key"] is None


def test_a_record_deleted_while_the_batch_closes_is_named_as_missing(store):
    batch = batch_of("b", 3)
    write_manifest(store, batch, map(entry_of, range(3)))
    for index in range(3):
        write_record(store, result_of("b", index))

    class Losing(ObjectStore):
        """The same store, which loses a record after it was listed."""

        def list(self, bucket, prefix, **options):
            yield from super().list(bucket, prefix, **options)
            store.delete(layout.result("b", 1))

    losing = Losing.__new__(Losing)
    losing.__dict__.update(store.__dict__)
    closing = close(losing, batch, "finished", 1, 2)
    assert closing.missing == (1,)
    assert keys(store, "b").isdisjoint(ENDS)
