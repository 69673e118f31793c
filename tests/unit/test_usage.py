"""An image's record says once what it used: by its attempt, and by a killed attempt before."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from billed import metered, written
from processed import BODY, Place
from standins import Store

from dermbatch import layout
from dermbatch.records.asked import event_id
from dermbatch.records.row import row_of
from dermbatch.stages import ORDER, Stage
from orchestrator.metering.events import UsageManifest
from tests import outcome_samples

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


# Events


def events_of(store, batch):
    """The manifest of a batch's events, and all of them, in the order of the files."""
    manifest = UsageManifest.model_validate_json(
        store.objects["results", layout.usage_manifest(batch.name, batch.created)]
    )
    prefix = layout.usage_of(batch.name, batch.created)
    bodies = [store.objects["results", prefix + file.name] for file in manifest.files]
    assert [len(body) for body in bodies] == [file.bytes for file in manifest.files]
    return manifest, [json.loads(line) for body in bodies for line in body.splitlines()]


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr("orchestrator.metering.events.EVENTS_A_FILE", 3)


@pytest.fixture
def store():
    return Store()


def test_each_result_is_a_cloudevent(tmp_path, store):
    batch = outcome_samples.batch_of("b", 2, tenant="clinic-a")
    written(tmp_path, store, batch, [metered("b", 1), outcome_samples.failure_of("b", 0)])
    manifest, (event,) = events_of(store, batch)
    assert event == {
        "specversion": "1.0",
        "id": "b/20260302T080000.000000Z/1",
        "source": "/dermbatch/batches/b",
        "type": "org.dermbatch.image.done",
        "subject": "clinic-a",
        "time": "2026-03-02T08:00:02.000000Z",
        "datacontenttype": "application/json",
        "data": {
            "batch": "b",
            "index": 1,
            "images": 1,
            "stage_seconds": dict.fromkeys(ORDER, 0.25),
            "model_seconds": dict.fromkeys(ORDER, 0.125),
            "device": dict.fromkeys(ORDER, "gpu"),
            "bytes_read": 1001,
            "bytes_stored": 0,
        },
    }
    stages = {f"{stage}_seconds": 250_000 for stage in ORDER}
    used = {"images": 1, **stages, "gpu_seconds": 500_000, "gigabytes_read": 1001}
    assert manifest.days == {"2026-03-02": used}
    assert (manifest.tenant, manifest.events) == ("clinic-a", 1)


def test_events_are_the_same_bytes_in_whatever_order_and_pieces_results_come(tmp_path, store, few):
    batch = outcome_samples.batch_of("b", 8)
    records = [metered("b", index) for index in (0, 1, 2, 6, 7)]
    written(tmp_path, store, batch, records)
    first = dict(store.objects)
    manifest, events = events_of(store, batch)
    assert [event["data"]["index"] for event in events] == [0, 1, 2, 6, 7]
    assert [file.events for file in manifest.files] == [3, 2]
    written(tmp_path, store, batch, [records[4], records[0]], records[1:4], [records[0]])
    assert store.objects == first


def test_a_batch_that_closes_again_has_the_events_of_now_and_none_else(tmp_path, store, few):
    batch = outcome_samples.batch_of("b", 8)
    written(tmp_path, store, batch, [metered("b", 0)])
    written(tmp_path, store, batch, [metered("b", 0), metered("b", 1)])
    manifest, events = events_of(store, batch)
    assert [event["data"]["index"] for event in events] == [0, 1]
    assert len(store.keys("^usage/")) == 1 + len(manifest.files)


def test_days_are_those_on_which_results_were_there(tmp_path, store):
    batch = outcome_samples.batch_of("b", 2)
    late = metered("b", 1).model_copy(update={"finished": datetime(2026, 4, 1, tzinfo=UTC)})
    manifest = written(tmp_path, store, batch, [metered("b", 0), late])
    assert {day: used["images"] for day, used in manifest.days.items()} == {"2026-03-02": 1, "2026-04-01": 1}
    assert manifest.files[0].days == ("2026-03-02", "2026-04-01")
