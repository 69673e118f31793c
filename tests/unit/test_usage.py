"""What an image used is told by its record, once: what its attempt did, and what a killed one did before."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from test_pipeline import BODY, Place

from dermbatch.records.asked import event_id
from dermbatch.records.row import row_of
from dermbatch.stages import ORDER, Stage

CREATED = datetime(2026, 3, 2, 8, tzinfo=UTC)


@pytest.fixture
def place():
    place = Place()
    place.triton.models = {stage: replace(model, device="gpu") for stage, model in place.triton.models.items()}
    return place


def job(place, **changes):
    return place.job().model_copy(update={"created": CREATED, **changes})


def billed(record):
    row = row_of(record)
    return {stage for stage in ORDER if row.get(f"{stage}_billed_seconds") is not None}


def test_the_id_of_an_event_is_of_batch_moment_and_index():
    assert event_id("b", CREATED, 7) == "b/20260302T080000.000000Z/7"
    assert event_id("b", None, 7) == "b/-/7"


def test_a_result_bills_its_own_stages_and_what_was_read_and_stored(place):
    record = place.run(job=job(place))
    row = row_of(record)
    assert record.usage.event == "b/20260302T080000.000000Z/7"
    assert billed(record) == set(ORDER)
    for stage in ORDER:
        done = record.stages[stage]
        assert row[f"{stage}_billed_seconds"] == done.seconds
        assert 0 < row[f"{stage}_model_seconds"] == done.model_seconds <= done.seconds
        assert row[f"{stage}_device"] == "gpu"
    assert row["bytes_read"] == len(BODY)
    stored = [len(body) for (bucket, key), body in place.store.objects.items() if key.endswith(".png")]
    assert row["bytes_stored"] == sum(stored) - len(BODY)


def test_a_known_image_of_another_batch_bills_no_stage(place):
    place.run(job=job(place))
    record = place.run(job=job(place, batch="later"))
    assert record.cached == ORDER
    assert billed(record) == set()
    assert (row_of(record)["bytes_read"], row_of(record)["bytes_stored"]) == (0, 0)


def test_a_later_batch_of_the_same_name_is_another_one(place):
    place.run(job=job(place))
    assert billed(place.run(job=job(place, created=CREATED.replace(year=2027)))) == set()


def test_stages_that_a_killed_attempt_has_done_are_billed_once(place):
    place.run(job=job(place))  # all is known, and no record was written
    second = place.run(job=job(place), attempt=2)
    assert second.cached == ORDER
    assert billed(second) == set(ORDER)
    assert row_of(second)["bytes_stored"] > 0


def test_another_model_bills_what_it_changes_and_no_more(place):
    place.run(job=job(place))
    place.triton.models[Stage.SEGMENT] = replace(place.triton.models[Stage.SEGMENT], version="2", sha256="cd" * 32)
    assert billed(place.run(job=job(place, batch="again"))) == set(ORDER) - {Stage.PURIFY}


def test_a_record_of_an_earlier_version_bills_what_it_says_was_run(place):
    record = place.run(job=job(place)).model_copy(update={"usage": None, "cached": (Stage.PURIFY,)})
    assert billed(record) == set(ORDER) - {Stage.PURIFY}
    assert row_of(record)["segment_billed_seconds"] == record.seconds["segment"]
    assert "bytes_read" not in row_of(record)
