import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from dermbatch import layout
from dermbatch.records.asked import BatchSummary
from dermbatch.records.row import row_of, sent
from dermbatch.stages import ORDER, Stage
from dermbatch.store import ObjectStore
from orchestrator.reporting.closing import close, gather
from orchestrator.reporting.fetch import Incomplete, fetch
from orchestrator.reporting.table import parts
from orchestrator.reporting.table.parts import TableManifest
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


@pytest.fixture
def small_parts(monkeypatch):
    """Tables of more than 20 images are in parts, of 10 rows each."""
    monkeypatch.setattr(parts, "ONE_FILE", 20)
    monkeypatch.setattr(parts, "ROWS", 10)


class Counting(ObjectStore):
    """The same store, which notes what is read."""

    def __init__(self, store):
        self.__dict__.update(store.__dict__)
        self.read_keys = []

    def read(self, bucket, key, **options):
        self.read_keys.append(key)
        return super().read(bucket, key, **options)

    @property
    def records(self):
        return [key for key in self.read_keys if "/results/" in key]


def rows_of(*indices, **changes):
    return [sent(row_of(result_of("b", index, **changes))) for index in indices]


def filled(store, count, *, failed=(), **changes):
    batch = batch_of("b", count)
    write_manifest(store, batch, map(entry_of, range(count)))
    for index in range(count):
        write_record(store, failure_of("b", index) if index in failed else result_of("b", index, **changes))
    return batch


def dataset(store):
    """The rows of a table in parts, file by file, as its manifest names them."""
    manifest = TableManifest.model_validate_json(body(store, layout.table_manifest("b")))
    prefix = layout.table_parts("b")
    there = {name.rpartition("/")[2] for name in keys(store, "b") if "results.parquet/part" in name}
    assert there == {part.name for part in manifest.parts}
    files = [pq.read_table(io.BytesIO(body(store, f"{prefix}{part.name}"))) for part in manifest.parts]
    for part, file in zip(manifest.parts, files, strict=True):
        index = file["index"].to_pylist()
        assert index == sorted(index)
        assert (part.rows, part.first, part.last) == (len(index), index[0], index[-1])
        assert file.schema.names == files[0].schema.names
    assert manifest.rows == sum(map(len, files))
    return sorted((row for file in files for row in file.to_pylist()), key=lambda row: row["index"])


def test_a_large_batch_has_its_table_in_parts_and_only_records_without_a_row_are_read(store, small_parts):
    batch = filled(store, 65, failed={7, 31}, preview=b"")
    came = [index for index in range(65) if index not in {7, 31, 40, 41}]
    for start in (20, 0, 10):
        gather(store, batch, rows_of(*came[start : start + 10]))
    gather(store, batch, rows_of(*came[10:20]))  # cut off before it had let go of them
    noting = Counting(store)
    closing = close(noting, batch, "finished", 2, 4, rows_of(*came[30:55]))
    assert (closing.summary.done, closing.summary.failed, closing.summary.stage_runs[Stage.SEGMENT]) == (63, 2, 63)
    rows = dataset(store)
    assert [row["index"] for row in rows] == list(range(65))
    assert [row["index"] for row in rows if row["outcome"] == "failed"] == [7, 31]
    assert rows[12]["embedding"] == [12, 13, 14, 15]
    shown = 63  # by the report, all of so few
    assert len(noting.records) == shown + 65 - 55 - 2
    assert layout.table("b") not in {info.key for info in store.list(store.bucket, "batches/b/")}


def test_a_small_batch_has_one_table_of_what_was_gathered_and_nothing_is_left(store, small_parts):
    batch = filled(store, 20)
    gather(store, batch, rows_of(*range(9, -1, -1)))
    close(store, batch, "finished", 2, 4, rows_of(15, 12))
    assert [row["index"] for row in table(store, "b")] == list(range(20))
    assert [info.key for info in store.list(store.bucket, "gathered/")] == []


def test_parts_that_overlap_or_are_of_records_that_are_gone_are_made_again(store, small_parts):
    batch = filled(store, 40)
    gather(store, batch, rows_of(*range(10)))
    gather(store, batch, rows_of(*range(5, 15)))
    gather(store, batch, rows_of(*range(20, 30), area=5))
    store.delete(layout.result("b", 25))
    assert close(store, batch, "finished", 2, 4).missing == (25,)
    write_record(store, result_of("b", 25))
    assert close(store, batch, "finished", 2, 4, rows_of(25, area=1) + rows_of(25)).summary.done == 40
    rows = dataset(store)
    assert [row["index"] for row in rows] == list(range(40))
    assert {row["area_px"] for row in rows} == {300}


def test_closing_a_large_batch_again_reads_what_failed_and_leaves_nothing_of_before(store, small_parts):
    batch = filled(store, 40, failed={3, 17}, preview=b"")
    gather(store, batch, rows_of(*range(20, 30)))
    close(store, batch, "finished", 2, 4)
    before = dataset(store)
    write_record(store, result_of("b", 17))
    noting = Counting(store)
    assert close(noting, batch, "finished", 2, 4).summary.failed == 1
    after = dataset(store)
    assert [row["outcome"] for row in after if row["index"] in {3, 17}] == ["failed", "done"]
    assert [row for row in after if row["index"] != 17] == [row for row in before if row["index"] != 17]
    assert len(noting.records) == 39 + 1  # those of the cards, and the new one


def test_rows_of_another_version_are_passed_over(store, small_parts):
    batch = filled(store, 30)
    gather(store, batch, ['{"index":1,"novelty":2}'])
    close(store, batch, "finished", 2, 4, ['{"index":1,"novelty":2}', *rows_of(2)])
    assert [row["index"] for row in dataset(store)] == list(range(30))


def test_all_parts_have_columns_for_all_labels(store, small_parts):
    batch = filled(store, 30, failed=set(range(11)))
    close(store, batch, "finished", 2, 4)
    rows = dataset(store)
    assert (rows[0]["probability_nevus"], rows[29]["probability_nevus"]) == (None, 0.7)


def test_a_table_in_parts_is_brought_whole_and_without_what_is_of_none(store, small_parts, tmp_path):
    only = {"stages": (Stage.SEGMENT,), "preview": b""}
    batch = filled(store, 30, failed={4}, **only)
    gather(store, batch, rows_of(*range(10, 20), **only))
    with pytest.raises(Incomplete):  # there are no pictures
        fetch(store, "b", tmp_path)
    assert not list((tmp_path / layout.table_parts("b")).glob("part-*"))
    for failed in (1, 0):
        assert close(store, batch, "finished", 2, 4).summary.failed == failed
        write_record(store, result_of("b", 4, **only))
        with pytest.raises(Incomplete):
            fetch(store, "b", tmp_path)
        indices = pq.read_table(tmp_path / layout.table_parts("b"))["index"].to_pylist()
        assert sorted(indices) == list(range(30))
