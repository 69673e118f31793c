import io

import numpy as np
import pyarrow.parquet as pq
import pytest

from dermbatch import layout
from dermbatch.errors import PermanentError, UsageError
from dermbatch.records.asked import Earlier, ModelChoice, Order, Refusal
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from desk.problems import Problem
from desk.results.comparisons import compared, true_mask
from orchestrator.batches.entries import read_manifest_part
from orchestrator.planning.resegment import plan_resegment
from orchestrator.reporting.closing import close
from tests.outcome_samples import (
    batch_of,
    entry_of,
    failure_of,
    mask_png,
    result_of,
    write_manifest,
    write_record,
)


@pytest.fixture
def store(empty_store):
    return ObjectStore(empty_store)


def put_mask(store, record, radius):
    store.put(record.stages[Stage.SEGMENT].artifacts["mask.png"], mask_png(radius), "image/png")


def close_new(store, images, **entry):
    batch = batch_of("new", images, compared_with=("old",))
    earlier = (Earlier(batch="old", index=index) for index in range(images))
    write_manifest(store, batch, [entry_of(i, earlier=e, **entry) for i, e in enumerate(earlier)])
    assert close(store, batch, "finished", 1, 4).summary is not None
    rows = pq.read_table(io.BytesIO(store.get(store.bucket, layout.comparison_table("new")))).to_pylist()
    return rows, store.get(store.bucket, layout.comparison("new")).decode()


NEW = {"segment": "2"}


def test_old_and_new_are_compared_image_by_image(store):
    old = [result_of("old", index) for index in range(3)]
    new = [
        result_of("new", 0),
        result_of("new", 1, versions=NEW, area=600, probabilities=(0.8, 0.1, 0.1)),
        result_of("new", 2, versions=NEW, area=0),
    ]
    for record in (*old, *new):
        write_record(store, record)
    put_mask(store, old[1], 10)
    put_mask(store, new[1], 20)
    rows, page = close_new(store, 3)
    assert [row["how"] for row in rows] == ["identical", "compared", "compared"]
    small, large = (np.count_nonzero(mask(radius)) for radius in (10, 20))
    assert [row["dice"] for row in rows] == [1, pytest.approx(2 * small / (small + large)), 0]
    assert [row["area_change"] for row in rows] == [0, 1, -1]
    assert [row["label_changed"] for row in rows] == [False, True, False]
    assert (rows[1]["old_label"], rows[1]["new_label"]) == ("nevus", "melanoma")
    assert [row["probability_change"] for row in rows] == [0, pytest.approx(0.6), 0]
    assert (rows[1]["old_segment_model"], rows[1]["new_segment_model"]) == ("segment_net@1", "segment_net@2")
    assert rows[1]["earlier_batch"] == "old"
    assert page.count("<figcaption><b>Dice") == 2
    assert page.index("Dice 0.000") < page.index(f"Dice {rows[1]['dice']:.3f}")
    assert "data:image/jpeg;base64," in page
    assert "http" not in page.replace("http-equiv", "")


def mask(radius):
    import cv2

    return cv2.imdecode(np.frombuffer(mask_png(radius), np.uint8), cv2.IMREAD_GRAYSCALE)


def test_what_has_the_same_segment_key_costs_no_reading_of_masks(store):
    for index in range(2):
        write_record(store, result_of("old", index))
    write_record(store, result_of("new", 0))
    write_record(store, result_of("new", 1, versions={"classify": "2"}, probabilities=(0.3, 0.6, 0.1)))
    rows, page = close_new(store, 2)  # there are no masks in the store
    assert [row["dice"] for row in rows] == [1, 1]
    assert [row["how"] for row in rows] == ["identical", "compared"]
    assert rows[1]["probability_change"] == pytest.approx(0.1)
    assert "segmented again" in page
    assert "<svg" not in page  # no histogram of Dice where no mask was made again


def test_images_without_two_results_are_counted_apart(store):
    write_record(store, result_of("old", 0))
    write_record(store, failure_of("old", 1))
    store.put(layout.result("old", 2), b"{", "application/json")
    write_record(store, failure_of("new", 0))
    for index in (1, 2):
        write_record(store, result_of("new", index, versions=NEW))
    rows, page = close_new(store, 3)
    assert [row["how"] for row in rows] == ["new_failed", "old_missing", "old_missing"]
    assert "<b>3</b>images<" in page
    assert "<b>0</b>compared" in page
    assert [row["dice"] for row in rows] == [None] * 3


@pytest.mark.parametrize("damaged", [None, b"", b"no picture", mask_png(5, side=32)])
def test_a_mask_that_cannot_be_compared_leaves_dice_empty(store, damaged):
    old, new = result_of("old", 0), result_of("new", 0, versions=NEW)
    write_record(store, old)
    write_record(store, new)
    put_mask(store, new, 10)
    if damaged is not None:
        store.put(old.stages[Stage.SEGMENT].artifacts["mask.png"], damaged, "image/png")
    rows, page = close_new(store, 1)
    assert (rows[0]["how"], rows[0]["dice"]) == ("compared", None)
    assert "<b>1</b>compared" in page
    assert "<b>0</b>pairs of masks" in page


def test_a_batch_that_is_compared_with_none_has_no_comparison(store):
    batch = batch_of("new", 1)
    write_manifest(store, batch, [entry_of(0)])
    write_record(store, result_of("new", 0))
    close(store, batch, "finished", 1, 1)
    assert [info.key for info in store.list(store.bucket, layout.comparison("new")[:-5])] == []


# Planning


PINNED = {Stage.SEGMENT: ModelChoice(name="segment_net", version="2")}


def past(store, name, entries, **changes):
    entries = list(entries)
    batch = batch_of(name, len(entries), **changes)
    write_manifest(store, batch, entries)
    return batch


def test_a_resegment_repeats_the_images_of_batches_and_pins_what_ran(store):
    refusal = Refusal(reason="zip_slip", message="the member's name leads out of the archive")
    refused = entry_of(1, source=None, etag=None, refusal=refusal)
    past(store, "one", [entry_of(0), refused, *(entry_of(i) for i in range(2, 1500))])
    past(store, "two", [entry_of(0), entry_of(1, etag="c" * 32)])
    for name in ("one", "two"):
        write_record(store, result_of(name, 0))
    batch = plan_resegment("new", Order(models=PINNED, lane="live", weight=3), ["one", "two"], store)
    assert (batch.images, batch.left_out, batch.duplicates) == (1501, 1, 1)
    assert (batch.order.lane, batch.order.weight, batch.order.compared_with) == ("live", 3, ("one", "two"))
    assert {stage: choice.version for stage, choice in batch.order.models.items()} == {
        "purify": "1",
        "segment": "2",
        "enhance": "1",
        "classify": "1",
    }
    entries = [e for part in ("000000", "000001") for e in read_manifest_part(store, "new", part, images=1501)]
    assert entries[0] == entry_of(0, earlier=Earlier(batch="one", index=0))
    assert entries[1].earlier == Earlier(batch="one", index=2)
    assert entries[1499].duplicate_of == 0
    assert entries[1500].earlier == Earlier(batch="two", index=1)
    assert entries[1500].source == "s3://incoming/b/1"
    assert store.get(store.bucket, layout.control("new"))


def test_a_resegment_goes_on_after_a_kill(store):
    past(store, "one", map(entry_of, range(2300)))

    class Dying(ObjectStore):
        """The same store, to a planner that is killed when it writes its second part."""

        def put(self, key, body, content_type, **options):
            if key == layout.manifest_part("new", "000001"):
                raise KeyboardInterrupt
            return super().put(key, body, content_type, **options)

    dying = Dying.__new__(Dying)
    dying.__dict__.update(store.__dict__)
    with pytest.raises(KeyboardInterrupt):
        plan_resegment("new", Order(models=PINNED), ["one"], dying)
    batch = plan_resegment("new", Order(models=PINNED), ["one"], store)
    assert batch.images == 2300
    for part, count in (("000000", 1000), ("000001", 1000), ("000002", 300)):
        entries = read_manifest_part(store, "new", part, images=2300)
        assert len(entries) == count
        assert all(entry.earlier == Earlier(batch="one", index=entry.index) for entry in entries)


@pytest.mark.parametrize(
    ("batches", "models", "sentence"),
    [
        (["one"], {Stage.SEGMENT: ModelChoice(name="segment_net")}, "pin a version"),
        (["one"], {}, "name what to run again"),
        ([], PINNED, "at least one earlier batch"),
        (["one", "nothing"], PINNED, "no batch 'nothing'"),
        (["one", "other"], PINNED, "different models"),
        (["purified"], {Stage.CLASSIFY: ModelChoice(name="c", version="1")}, "no earlier batch ran segment"),
    ],
)
def test_a_resegment_that_would_compare_nothing_is_refused_before_anything_is_written(
    store, batches, models, sentence
):
    past(store, "one", [entry_of(0)])
    other = {stage: ModelChoice(name=f"{stage}_net", version="7") for stage in Stage}
    past(store, "other", [entry_of(0)], models=other)
    past(store, "purified", [entry_of(0)], stages=(Stage.PURIFY,))
    with pytest.raises(UsageError, match=sentence):
        plan_resegment("new", Order(models=models), batches, store)
    assert list(store.list(store.bucket, layout.batch_prefix("new"))) == []
    assert list(store.list(store.bucket, layout.OPEN)) == []


def test_a_taken_name_and_a_damaged_manifest_are_refused(store):
    past(store, "one", [entry_of(0)])
    with pytest.raises(UsageError, match="there is a batch 'one' already"):
        plan_resegment("one", Order(models=PINNED), ["one"], store)
    store.put(layout.manifest_part("one", "000000"), b"{", "application/x-ndjson")
    with pytest.raises(PermanentError) as refused:
        plan_resegment("new", Order(models=PINNED), ["one"], store)
    assert refused.value.reason == "manifest_damaged"


def test_the_desk_shows_a_comparison_image_by_image_also_against_true_masks(store):
    for index in range(3):
        for name, versions, radius in (("old", None, 8 + index), ("new", NEW, 16)):
            record = result_of(name, index, versions=versions)
            write_record(store, record)
            put_mask(store, record, radius)
    close_new(store, 3)
    store.put("truth/000001_segmentation.png", mask_png(16), "image/png")
    store.put("truth/000002.png", mask_png(16, side=32), "image/png")
    found = compared(store, "new", "dice", 0, f"s3://{store.bucket}/truth/")
    assert [row["index"] for row in found.rows] == [0, 1, 2]
    assert found.total == 3
    true = found.rows[1]
    assert (true["old_true_dice"], true["new_true_dice"]) == (pytest.approx(true["dice"]), 1)
    assert [row["new_true_dice"] for row in found.rows] == [None, 1, None]  # none there; another size
    assert [row["index"] for row in compared(store, "new", "-dice", 1, None).rows] == [1, 0]
    assert true_mask(store, f"s3://{store.bucket}/truth", result_of("new", 1)) == mask_png(16)
    for truth, status in ((f"s3://{store.bucket}/truth/", 404), ("/etc", 400)):
        with pytest.raises(Problem) as caught:
            true_mask(store, truth, result_of("new", 0))
        assert caught.value.status == status
    with pytest.raises(Problem, match="compares no models"):
        compared(store, "old", "dice", 0, None)
