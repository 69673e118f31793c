"""Planner and dispatcher with a real ledger and a real store; messages go into a list."""

import time
from collections import Counter

import pytest

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, PermanentError, StoreUnavailable, UsageError
from dermbatch.ledger import Counts, Ledger
from dermbatch.records import FailureRecord, ModelChoice, Refusal
from dermbatch.settings import LedgerSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.dispatcher import Dispatcher
from orchestrator.intake import Candidate, Skipped
from orchestrator.planner import Order, plan, read_batch, read_manifest_part

LEDGER = LedgerSettings(lease=0.2, heartbeat=0.1, queued_look=30, max_crashes=1, window_per_slot=3)
MODELS = {Stage.SEGMENT: ModelChoice(name="m")}


@pytest.fixture
def store(empty_store):
    return ObjectStore(empty_store)


@pytest.fixture
def ledger(empty_redis):
    return Ledger(empty_redis, LEDGER)


class Orchestrator:
    def __init__(self, store, ledger):
        self.sent = []
        self.dispatcher = Dispatcher(store, ledger, lambda job, lane: self.sent.append((job, lane)), LEDGER, "o")

    def indices(self, batch):
        return [job.index for job, _ in self.sent if job.batch == batch]


def order(name="b", lane="bulk"):
    return Order(name, MODELS, (Stage.SEGMENT,), lane)


def there(count, prefix="x"):
    return [Candidate(f"{prefix}{n}", uri=f"s3://bucket/{prefix}{n}", size=1) for n in range(count)]


def planned(store, ledger, candidates, *args):
    batch = plan(order(*args), candidates, store)
    ledger.open_batch(batch)
    return batch


def finish(ledger, job, outcome="done"):
    ledger.finish(job, ledger.claim(job, "w").owner, outcome)


def test_a_plan_uploads_refuses_and_counts(store):
    def broken():
        raise PermanentError("the file cannot be read", reason="unreadable")

    candidates = [
        Candidate("patient Müller.jpg", read=lambda: b"pixels", size=6),
        Skipped("notes.txt"),
        Candidate("evil.zip/../x", refusal=Refusal(reason="zip_slip", message="leaves the archive")),
        Candidate("gone.jpg", read=broken, size=1),
        Candidate("s3://bucket/key", uri="s3://bucket/key", size=9),
    ]
    batch = plan(order(), candidates, store)
    entries = read_manifest_part(store, "b", "000000")
    assert (batch.images, batch.skipped) == (4, 1)
    assert read_batch(store, "b") == batch
    assert [entry.index for entry in entries] == [0, 1, 2, 3]
    assert store.get(store.incoming_bucket, "b/0") == b"pixels"
    assert "ller" not in entries[0].source
    assert [entry.refusal and entry.refusal.reason for entry in entries] == [None, "zip_slip", "unreadable", None]
    assert entries[3].source == "s3://bucket/key"


def test_a_name_is_taken_once_and_an_empty_plan_is_none(store):
    plan(order(), there(1), store)
    with pytest.raises(UsageError, match="already"):
        plan(order(), there(1), store)
    with pytest.raises(UsageError, match="no image among the inputs"):
        plan(order("empty"), [Skipped("a.txt")], store)
    with pytest.raises(ObjectNotFound):
        read_batch(store, "empty")


def test_the_window_bounds_what_is_in_flight_over_manifest_parts(store, ledger):
    count = layout.PART_SIZE + 50
    planned(store, ledger, there(count))
    orchestrator = Orchestrator(store, ledger)
    ledger.report_slot("w/1")
    ledger.report_slot("w/2")
    assert orchestrator.dispatcher.feed() == 6
    assert orchestrator.dispatcher.feed() == 0
    while len(orchestrator.sent) < count:
        assert ledger.in_flight() == 6
        for job, _ in orchestrator.sent[-6:]:
            finish(ledger, job)
        orchestrator.dispatcher.feed()
    assert orchestrator.indices("b") == list(range(count))


def test_a_new_dispatcher_goes_on_where_the_last_one_stopped(store, ledger):
    planned(store, ledger, there(30))
    first = Orchestrator(store, ledger)
    first.dispatcher.feed()
    for job, _ in first.sent:
        finish(ledger, job)
    second = Orchestrator(store, ledger)
    second.dispatcher.feed()
    assert second.indices("b")[0] == first.indices("b")[-1] + 1


def test_batches_take_turns_and_live_goes_first(store, ledger):
    planned(store, ledger, there(50), "old")
    planned(store, ledger, there(50), "new")
    planned(store, ledger, there(4), "urgent", "live")
    orchestrator = Orchestrator(store, ledger)
    assert orchestrator.dispatcher.feed() == 12
    assert Counter((job.batch, lane) for job, lane in orchestrator.sent) == {
        ("urgent", "live"): 4,
        ("old", "bulk"): 4,
        ("new", "bulk"): 4,
    }


def test_refused_inputs_fail_without_a_worker(store, ledger):
    planned(
        store,
        ledger,
        [Candidate("a.zip", refusal=Refusal(reason="zip_corrupt", message="it is broken")), *there(1)],
    )
    orchestrator = Orchestrator(store, ledger)
    orchestrator.dispatcher.feed()
    assert orchestrator.indices("b") == [1]
    assert ledger.counts("b") == Counts(images=2, done=0, failed=1)
    written = FailureRecord.model_validate_json(store.get(store.bucket, layout.failure("b", 0)))
    assert (written.name, written.reason, written.message) == ("a.zip", "zip_corrupt", "it is broken")


def test_poison_is_recorded_and_the_batch_goes_on(store, ledger):
    planned(store, ledger, there(2))
    orchestrator = Orchestrator(store, ledger)
    orchestrator.dispatcher.feed()
    ledger.claim(orchestrator.sent[0][0], "dies")
    time.sleep(0.25)
    assert orchestrator.dispatcher.repair() == 1
    written = FailureRecord.model_validate_json(store.get(store.bucket, layout.failure("b", 0)))
    assert (written.reason, written.attempts) == ("poison", 1)
    assert ledger.counts("b").failed == 1
    finish(ledger, orchestrator.sent[1][0])
    assert ledger.counts("b").finished


def test_what_a_failing_turn_read_but_did_not_send_is_not_forgotten(store, ledger):
    planned(store, ledger, there(5))
    orchestrator = Orchestrator(store, ledger)
    send, failures = orchestrator.dispatcher._send, iter([True])

    def fails_once(job, lane):
        if job.index == 2 and next(failures, False):
            raise StoreUnavailable("the queue is away")
        send(job, lane)

    orchestrator.dispatcher._send = fails_once
    with pytest.raises(StoreUnavailable):
        orchestrator.dispatcher.feed()
    orchestrator.dispatcher.feed()
    # The third message was lost with the failure: the ledger has the image and will have it sent again.
    assert orchestrator.indices("b") == [0, 1, 3, 4]
    assert ledger.in_flight() == 5
