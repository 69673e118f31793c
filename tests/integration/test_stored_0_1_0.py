"""What version 0.1.0 has stored is read, and what a later version stores is refused.

``stored_0_1_0`` holds the JSON of its result bucket: a closed batch, one that was planned and not begun, one whose
planner was killed, one of watching that grows, a canary, and a message of its queue. Pictures are left out.
"""

import json
from pathlib import Path

import pytest

from dermbatch import __version__, layout
from dermbatch.errors import NewerFormat, RecordDamaged
from dermbatch.ledger import Due, ImageRef, Message
from dermbatch.ledger.queue import QUEUES
from dermbatch.records.asked import (
    FORMAT,
    Batch,
    BatchControl,
    BatchSummary,
    Canary,
    ImageJob,
    ModelChoice,
    Order,
    PlanRecord,
)
from dermbatch.records.outcome import CanaryRecord, FailureRecord, KnownImage, ResultRecord
from dermbatch.settings import DEFAULT_MODELS, Settings
from dermbatch.stages import ORDER, Stage
from dermbatch.stored import read, read_if_any
from orchestrator.batches.entries import read_batch, read_manifest_part
from orchestrator.batches.history import read_history
from orchestrator.batches.summary import read_summary
from orchestrator.dispatch.messages import job_of
from orchestrator.planning.planner import plan
from orchestrator.planning.resegment import plan_resegment
from orchestrator.reporting.closing import close
from orchestrator.reporting.overview import overview
from orchestrator.steering import canary
from orchestrator.steering.controls import begin
from orchestrator.watching.rules.rules import Rule
from orchestrator.watching.taking.memory import recall
from tests.integration.orchestra import there
from tests.outcome_samples import batch_of, entry_of, write_manifest

STORED = Path(__file__).parent / "stored_0_1_0"
FILES = {str(path.relative_to(STORED)): path.read_bytes() for path in STORED.rglob("*") if path.is_file()}
MESSAGE = FILES.pop("message.json").decode()
MODELS = {
    Stage.PURIFY: ModelChoice(name="purify_unet"),
    Stage.SEGMENT: ModelChoice(name="segment_mobilenet"),
    Stage.ENHANCE: ModelChoice(name="enhance_espcn"),
    Stage.CLASSIFY: ModelChoice(name="classify_mobilenet"),
}
"""The defaults of 0.1.0, by which its batches ask."""
KINDS = {
    "/batch.json": Batch,
    "/plan.json": PlanRecord,
    "/summary.json": BatchSummary,
    "/canary.json": Canary,
    "open/": BatchControl,
    "/failed/": FailureRecord,
    "/known/": KnownImage,
    "canaries/april/results/": CanaryRecord,
    "/results/": ResultRecord,
}
GROWING = "watch-clinic-20261127"


def kind_of(key):
    return next(kind for part, kind in KINDS.items() if part in key)


RECORDS = sorted(key for key in FILES if key.endswith(".json"))


@pytest.fixture
def stored(orchestra):
    """An orchestrator whose object store holds what 0.1.0 has left, and whose Redis holds nothing."""
    for key, body in FILES.items():
        orchestra.store.put(key, body, "application/json")
    return orchestra


def test_each_record_is_read_and_written_as_one_of_today(stored):
    assert {kind_of(key) for key in RECORDS} == set(KINDS.values())
    for key in RECORDS:
        record = read(stored.store, key, kind_of(key))
        assert "format" not in json.loads(FILES[key])
        assert json.loads(record.to_json())["format"] == FORMAT
        assert type(record).model_validate_json(record.to_json()) == record


def test_nothing_that_was_written_is_lost(stored):
    for key in RECORDS:
        written, now = json.loads(FILES[key]), json.loads(read(stored.store, key, kind_of(key)).to_json())
        assert kept(written, now.get("order", {}) | now) == written


def kept(written, now):
    """Of what a record says now, all fields that it had, in records within it too."""
    if isinstance(written, dict) and isinstance(now, dict):
        return {field: kept(value, now[field]) for field, value in written.items()}
    return now


def test_all_its_batches_are_shown(stored):
    shown = {one.name: one for one in overview(stored.store, stored.ledger).batches}
    assert {name: one.state for name, one in shown.items()} == {
        "monday": "finished",
        "planned": "planning",
        "waiting": "waiting",
        GROWING: "waiting",
    }
    assert (shown["planned"].lane, shown["planned"].weight) == ("bulk", 4)
    assert (shown["waiting"].weight, shown[GROWING].lane, shown[GROWING].growing) == (5, "live", True)


def test_its_open_batches_are_restored_and_fed_into_jobs(stored):
    assert sorted(stored.reconcile()) == ["waiting", GROWING]
    assert (stored.state(GROWING).done, stored.state(GROWING).failed, stored.state(GROWING).weight) == (1, 1, 3)
    stored.dispatcher.feed()
    jobs = stored.take()
    assert [job.index for job in jobs] == [0, 1, 2]
    assert jobs[0].order == Order(
        models=MODELS, weight=5, max_failed_share=0.2, dicom=True, output="s3://ward/out"
    )
    stored.done(*jobs)
    stored.close()
    assert read_summary(stored.store, "waiting").done == 3


def test_a_batch_of_it_is_closed_with_what_it_has(stored):
    before = read_summary(stored.store, "monday")
    stored.store.delete(layout.summary("monday"))
    batch = read_batch(stored.store, "monday")
    assert not close(stored.store, batch, "finished", before.slots, 4).missing
    after = read_summary(stored.store, "monday")
    assert after == before.model_copy(update={"closed": after.closed, "software": __version__})
    assert read_history(stored.store).batches == 1


def test_a_plan_that_it_began_is_gone_on_with(stored):
    begun = read(stored.store, layout.plan_record("planned"), PlanRecord)
    batch = plan("planned", Order(models=MODELS, weight=6), there(2), stored.store)
    assert (batch.images, batch.created, batch.order.weight) == (2, begun.created, 6)


def test_its_images_are_run_again(stored):
    other = Order(models={Stage.SEGMENT: ModelChoice(name="segment_mobilenet", version="2")})
    batch = plan_resegment("again", other, ["monday"], stored.store)
    assert (batch.images, batch.order.stages, batch.order.compared_with) == (4, ORDER, ("monday",))
    assert [batch.order.models[stage].version for stage in ORDER] == ["1", "2", "1", "1"]


def test_a_watcher_remembers_what_was_taken_in_and_goes_on_with_the_batch(stored):
    memory = recall(stored.store, stored.ledger, lambda: None)
    entries = read_manifest_part(stored.store, GROWING, "000000", images=2, grown=True)
    memory.settle([])
    assert all(entry.origin in memory.taken for entry in entries)
    gathering = memory.gatherings["clinic"]
    rule = Rule(
        name="clinic",
        prefix="s3://clinic/exports/",
        weight=3,
        stages=("purify", "segment"),
        models={"segment": "segment_mobilenet@1"},
        max_failed_share=0.5,
    )
    # The default purifier of 0.1.0: a batch keeps the models that it was opened with.
    then = Settings(models={**DEFAULT_MODELS, Stage.PURIFY: ModelChoice(name="purify_unet")})
    assert gathering.batch.order == rule.order(then)
    gathering.add(entry_of(2, origin="ab" * 16))
    gathering.write()
    memory.close()
    written = json.loads(stored.store.get(stored.store.bucket, layout.batch_record(GROWING)))
    assert (written["format"], written["images"], written["order"]["weight"]) == (FORMAT, 3, 3)


def test_a_message_of_it_is_worked_off(stored):
    """Where no key is set: it signed nothing. ``test_message_doors.py`` has what becomes of it where one is."""
    stored._signing = None
    stored.ledger.batches.open(read_batch(stored.store, "monday"))
    job = job_of(MESSAGE)
    assert (job.batch, job.index, job.order) == ("monday", 0, Order(models=MODELS, dicom=True))
    stored.ledger.images.enqueue([Message(job, QUEUES["live"], MESSAGE)])
    assert stored.take("live") == [job]
    stored.done(job)
    assert stored.state("monday").done == 1


def test_its_canary_and_what_it_knew_of_images_are_read(stored):
    assert canary.report(stored.store, "april").images == 3
    known = [key for key in RECORDS if "/known/" in key]
    assert all(len(read_if_any(stored.store, key, KnownImage).stages) == 4 for key in known)


# Later versions


def later(body):
    return json.dumps({**json.loads(body), "format": FORMAT + 1, "urgency": "high"}).encode()


def test_what_a_later_version_has_written_is_refused_and_never_taken_for_damage(stored):
    for key in RECORDS:
        stored.store.put(key, later(FILES[key]), "application/json")
        with pytest.raises(NewerFormat, match=f"format {FORMAT + 1}.*install the version") as refused:
            read(stored.store, key, kind_of(key))
        assert refused.value.reason == "newer_format"
        assert read_if_any(stored.store, key, kind_of(key)) is None
    stored.store.put("open/waiting.json", b'{"format": 2, "urgency": "high"}', "application/json")
    with pytest.raises(RecordDamaged, match=r"open/waiting\.json is damaged: urgency"):
        read(stored.store, "open/waiting.json", BatchControl)


def test_a_message_of_a_later_version_is_refused():
    job = json.loads(json.loads(MESSAGE)["body"])[0][0]
    with pytest.raises(NewerFormat):
        ImageJob.model_validate(json.loads(later(json.dumps(job))))


def test_a_batch_of_a_later_version_is_left_alone_and_others_go_on(orchestra):
    store = orchestra.store
    for name in ("later", "ours"):
        write_manifest(store, batch_of(name, 2), [entry_of(index) for index in range(2)])
        begin(store, orchestra.ledger, read_batch(store, name))
    body = later(store.get(store.bucket, layout.batch_record("later")))
    store.put(layout.batch_record("later"), body, "application/json")
    assert {job.batch for job in orchestra.work_off()} == {"ours"}
    orchestra.close()
    assert orchestra.state("later").state == "open"
    assert store.get(store.bucket, layout.batch_record("later")) == body
    orchestra.ledger.batches.forget("later")
    shown = {one.name: one for one in overview(store, orchestra.ledger).batches}
    assert (shown["ours"].state, shown["later"].state) == ("finished", "waiting")
    assert "install the version" in shown["later"].why


def test_a_plan_of_a_later_version_is_told_of_beside_the_others(stored):
    key = layout.plan_record("planned")
    stored.store.put(key, later(FILES[key]), "application/json")
    shown = {one.name: one for one in overview(stored.store, stored.ledger).batches}
    assert shown["planned"].state == "waiting"
    assert "install the version" in shown["planned"].why
    assert len(shown) > 1


def test_a_message_of_a_later_version_is_passed_over_and_others_are_dealt_with(orchestra, monkeypatch):
    write_manifest(orchestra.store, batch_of("b", 2), [entry_of(index) for index in range(2)])
    begin(orchestra.store, orchestra.ledger, read_batch(orchestra.store, "b"))
    orchestra.dispatcher.feed()
    first, second = (orchestra.client.rpop(QUEUES["bulk"]) for _ in range(2))
    outer = json.loads(first)
    (job,), *rest = json.loads(outer["body"])
    newer = json.dumps({**outer, "body": json.dumps([[{**job, "format": FORMAT + 1}], *rest])})
    due = [
        Due(ImageRef("b", job["index"]), newer, "resend", 1, lease_expired=False),
        Due(ImageRef("b", job_of(second).index), second, "poison", 3, lease_expired=True),
    ]
    monkeypatch.setattr(orchestra.ledger.images, "requeue", lambda name: due)
    assert orchestra.dispatcher.repair() == 2
    buried = job_of(second)
    record = read(orchestra.store, layout.failure("b", buried.index), FailureRecord)
    assert (record.reason, record.attempts) == ("poison", 3)
