import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from dermbatch.errors import LedgerUnavailable
from dermbatch.ledger import Claim, Counts, Ledger
from dermbatch.records import Batch, ImageJob, ModelChoice
from dermbatch.settings import LedgerSettings, RedisSettings
from dermbatch.stages import ORDER, Stage
from orchestrator.stack.ports import free_ports

SETTINGS = LedgerSettings(lease=0.3, heartbeat=0.1, queued_look=0.3, max_crashes=3)


@pytest.fixture
def ledger(empty_redis):
    return Ledger(empty_redis, SETTINGS)


def job(index=0, batch="b"):
    return ImageJob(
        batch=batch,
        index=index,
        name="x.jpg",
        source="s3://incoming/b/0",
        stages=ORDER,
        models={Stage.SEGMENT: ModelChoice(name="m")},
    )


def batch(images, name="b", lane="bulk"):
    return Batch(name=name, created=datetime.now(UTC), lane=lane, models={}, images=images, software="0")


def claimed(ledger, item, owner="w/0"):
    claim = ledger.claim(item, owner)
    assert isinstance(claim, Claim)
    return claim


def wait_due(ledger, timeout=5.0):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if due := ledger.requeue("orchestrator"):
            return due
        time.sleep(0.02)
    raise AssertionError("nothing became due")


def test_of_many_claims_one_wins(ledger):
    assert ledger.enqueue(job())
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: ledger.claim(job(), f"w/{n}"), range(16)))
    assert sum(isinstance(answer, Claim) for answer in answers) == 1
    assert answers.count("taken") == 15


def test_an_image_in_flight_or_finished_is_not_enqueued_again(ledger):
    assert ledger.enqueue(job())
    assert not ledger.enqueue(job())
    claim = claimed(ledger, job())
    assert ledger.finish(job(), claim.owner, "done")
    assert not ledger.enqueue(job())
    assert ledger.claim(job(), "w/1") == "finished"


def test_an_image_the_ledger_does_not_know_is_not_claimed(ledger):
    assert ledger.claim(job(), "w/0") == "unknown"


def test_a_silent_workers_image_comes_back_and_its_claim_is_void(ledger):
    ledger.enqueue(job())
    silent = claimed(ledger, job())
    assert ledger.requeue("o") == []
    (due,) = wait_due(ledger)
    assert (due.why, due.attempts, due.job) == ("expired", 1, job())
    assert not ledger.heartbeat(silent)
    again = claimed(ledger, job(), "w/1")
    assert again.attempt == 2
    assert not ledger.finish(job(), silent.owner, "failed")
    assert ledger.heartbeat(again)


def test_heartbeats_keep_a_lease(ledger):
    ledger.enqueue(job())
    claim = claimed(ledger, job())
    for _ in range(8):
        time.sleep(0.1)
        assert ledger.heartbeat(claim)
        assert ledger.requeue("o") == []


def test_a_lost_message_is_sent_again_without_counting_a_crash(ledger):
    ledger.enqueue(job())
    for _ in range(4):
        (due,) = wait_due(ledger)
        assert (due.why, due.attempts) == ("resend", 0)


def test_three_crashes_make_poison_that_only_the_reconciler_may_end(ledger):
    ledger.enqueue(job())
    whys = []
    for attempt in range(3):
        claimed(ledger, job(), f"w/{attempt}")
        (due,) = wait_due(ledger)
        whys.append(due.why)
    assert whys == ["expired", "expired", "poison"]
    assert ledger.claim(job(), "w/9") == "taken"
    assert ledger.states()["poison"] == 1
    assert not ledger.finish(job(), "w/2", "failed")
    assert ledger.finish(job(), "orchestrator", "failed")
    assert ledger.in_flight() == 0


def test_poison_whose_record_could_not_be_written_is_handed_out_again(ledger):
    ledger.enqueue(job())
    for attempt in range(3):
        claimed(ledger, job(), f"w/{attempt}")
        wait_due(ledger)
    (due,) = wait_due(ledger)
    assert due.why == "poison"


def test_a_pause_is_kept_and_transient_failures_are_counted(ledger):
    ledger.enqueue(job())
    claim = claimed(ledger, job())
    assert ledger.postpone(claim, 0.25) == 1
    assert ledger.claim(job(), "w/1") == "taken"
    assert ledger.requeue("o") == []
    (due,) = wait_due(ledger)
    assert due.why == "resend"
    again = claimed(ledger, job(), "w/1")
    assert again.attempt == 2
    assert ledger.postpone(claim, 1) == -1
    assert ledger.postpone(again, 1, counted=False) == 1


def test_a_result_counts_whoever_tells_and_beats_a_failure(ledger):
    ledger.open_batch(batch(2))
    ledger.enqueue(job())
    late = claimed(ledger, job())
    wait_due(ledger)
    current = claimed(ledger, job(), "w/1")
    assert ledger.finish(job(), late.owner, "done")
    assert not ledger.finish(job(), current.owner, "failed")
    assert ledger.counts("b") == Counts(images=2, done=1, failed=0)


def test_counts_are_derived_and_refusals_count_as_failed(ledger):
    assert ledger.counts("b") is None
    ledger.open_batch(batch(3))
    ledger.refuse("b", 0)
    ledger.refuse("b", 0)
    for index, outcome in ((1, "done"), (2, "failed")):
        ledger.enqueue(job(index))
        ledger.finish(job(index), claimed(ledger, job(index)).owner, outcome)
    counts = ledger.counts("b")
    assert (counts.done, counts.failed, counts.finished) == (1, 2, True)
    assert ledger.in_flight() == 0
    assert set(ledger.states().values()) == {0}


def test_opening_a_batch_again_keeps_its_place(ledger):
    ledger.open_batch(batch(5, "first", "live"))
    ledger.open_batch(batch(5, "second"))
    ledger.advance("first", 4)
    ledger.open_batch(batch(5, "first", "live"))
    assert ledger.next_index("first") == 4
    assert ledger.open_batches() == ["first", "second"]
    assert (ledger.lane("first"), ledger.lane("second")) == ("live", "bulk")
    ledger.close_batch("first")
    assert ledger.open_batches() == ["second"]


def test_slots_are_those_that_report(ledger):
    ledger.report_slot("w/1")
    ledger.report_slot("w/1")
    ledger.report_slot("w/2")
    assert ledger.live_slots() == 2
    ledger.retire_slot("w/1")
    assert ledger.live_slots() == 1


def test_a_redis_that_is_gone_is_a_transient_error():
    (port,) = free_ports(1)
    ledger = Ledger(RedisSettings(url=f"redis://127.0.0.1:{port}/0"), SETTINGS)
    with pytest.raises(LedgerUnavailable):
        ledger.enqueue(job())
