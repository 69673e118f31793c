import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import redis

from dermbatch.errors import LedgerUnavailable
from dermbatch.ledger import Claim, Ledger, Message
from dermbatch.ledger.queue import QUEUES
from dermbatch.records import Batch, BatchControl, ImageJob, ModelChoice
from dermbatch.settings import LedgerSettings, RedisSettings
from dermbatch.stages import ORDER, Stage
from orchestrator.stack.ports import free_ports
from tests.waiting import patience

SETTINGS = LedgerSettings(lease=0.3, heartbeat=0.1, queued_look=0.3, max_crashes=3)


@pytest.fixture
def ledger(empty_redis):
    return Ledger(empty_redis, SETTINGS)


@pytest.fixture
def client(empty_redis):
    with redis.Redis.from_url(empty_redis.url, decode_responses=True) as client:
        yield client


def job(index=0, batch="b"):
    return ImageJob(
        batch=batch,
        index=index,
        name="x.jpg",
        source="s3://incoming/b/0",
        stages=ORDER,
        models={Stage.SEGMENT: ModelChoice(name="m")},
    )


def message(index=0, batch="b", lane="bulk"):
    return Message(job(index, batch), QUEUES[lane], f"message {batch}:{index}")


def put(ledger, *indices, batch="b", lane="bulk"):
    return ledger.enqueue([message(index, batch, lane) for index in indices or (0,)])


def taken(redis_client, lane="bulk"):
    """What a worker does first: it takes the message."""
    return redis_client.rpop(QUEUES[lane])


def batch(images, name="b", lane="bulk"):
    return Batch(name=name, created=datetime.now(UTC), lane=lane, models={}, images=images, software="0")


def claimed(ledger, item, owner="w/0"):
    claim = ledger.claim(item, owner)
    assert isinstance(claim, Claim)
    return claim


def wait_due(ledger, timeout=5.0):
    deadline = time.monotonic() + patience(timeout)
    while time.monotonic() < deadline:
        if due := ledger.requeue("orchestrator"):
            return due
        time.sleep(0.02)
    raise AssertionError("nothing became due")


def test_of_many_claims_one_wins(ledger):
    assert put(ledger)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: ledger.claim(job(), f"w/{n}"), range(16)))
    assert sum(isinstance(answer, Claim) for answer in answers) == 1
    assert answers.count("taken") == 15


def test_an_image_in_flight_or_finished_is_not_enqueued_again(ledger):
    assert put(ledger)
    assert not put(ledger)
    claim = claimed(ledger, job())
    assert ledger.finish(job(), claim.owner, "done")
    assert not put(ledger)
    assert ledger.claim(job(), "w/1") == "finished"


def test_an_image_the_ledger_does_not_know_is_not_claimed(ledger):
    assert ledger.claim(job(), "w/0") == "unknown"


def test_a_silent_workers_image_comes_back_and_its_claim_is_void(ledger):
    put(ledger)
    silent = claimed(ledger, job())
    assert ledger.requeue("o") == []
    (due,) = wait_due(ledger)
    assert (due.why, due.attempts, due.payload) == ("expired", 1, "message b:0")
    assert not ledger.heartbeat(silent)
    again = claimed(ledger, job(), "w/1")
    assert again.attempt == 2
    assert not ledger.finish(job(), silent.owner, "failed")
    assert ledger.heartbeat(again)


def test_heartbeats_keep_a_lease(ledger):
    put(ledger)
    claim = claimed(ledger, job())
    for _ in range(8):
        time.sleep(0.1)
        assert ledger.heartbeat(claim)
        assert ledger.requeue("o") == []


def test_a_lost_message_is_sent_again_without_counting_a_crash(ledger, client):
    put(ledger)
    for _ in range(4):
        assert taken(client) == "message b:0"
        (due,) = wait_due(ledger)
        assert (due.why, due.attempts) == ("resend", 0)
    assert client.llen(QUEUES["bulk"]) == 1


def test_a_message_that_waits_in_the_queue_is_not_sent_twice(ledger, client):
    put(ledger, 0, 1, lane="live")
    for _ in range(5):
        time.sleep(0.1)
        assert ledger.requeue("o") == []
    assert client.llen(QUEUES["live"]) == 2
    assert ledger.waiting("live") > 0.4
    assert ledger.waiting("bulk") is None


def test_a_message_given_back_is_sent_again_at_once(ledger, client):
    put(ledger)
    taken(client)
    assert ledger.give_back("b", 0)
    assert [due.why for due in ledger.requeue("o")] == ["resend"]
    assert taken(client) == "message b:0"
    claimed(ledger, job())
    assert not ledger.give_back("b", 0)


def test_three_crashes_make_poison_that_only_the_reconciler_may_end(ledger):
    put(ledger)
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
    put(ledger)
    for attempt in range(3):
        claimed(ledger, job(), f"w/{attempt}")
        wait_due(ledger)
    (due,) = wait_due(ledger)
    assert due.why == "poison"


def test_a_pause_is_kept_and_transient_failures_are_counted(ledger):
    put(ledger)
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


def counts(ledger, name="b"):
    state = ledger.batch(name)
    return state.images, state.done, state.failed


def test_a_result_counts_whoever_tells_and_beats_a_failure(ledger):
    ledger.open_batch(batch(2))
    put(ledger)
    late = claimed(ledger, job())
    wait_due(ledger)
    current = claimed(ledger, job(), "w/1")
    assert ledger.finish(job(), late.owner, "done")
    assert not ledger.finish(job(), current.owner, "failed", "bad_input")
    assert counts(ledger) == (2, 1, 0)


def test_counts_are_derived_and_refusals_count_as_failed(ledger):
    assert ledger.batch("b") is None
    ledger.open_batch(batch(3))
    assert ledger.refuse("b", 0, "zip_slip")
    assert not ledger.refuse("b", 0, "zip_slip")
    put(ledger, 1, 2)
    assert ledger.batch("b").in_flight == 2
    for index, outcome, reason in ((1, "done", ""), (2, "failed", "truncated")):
        ledger.finish(job(index), claimed(ledger, job(index)).owner, outcome, reason)
    state = ledger.batch("b")
    assert (state.done, state.failed, state.finished, state.in_flight) == (1, 2, True, 0)
    assert state.reasons == {"zip_slip": 1, "truncated": 1}
    assert ledger.in_flight() == 0
    assert set(ledger.states().values()) == {0}


def test_opening_a_batch_again_keeps_its_place(ledger):
    assert ledger.open_batch(batch(5, "first", "live"))
    ledger.open_batch(batch(5, "second"))
    ledger.advance("first", 4)
    assert not ledger.open_batch(batch(5, "first", "live"))
    assert ledger.batch("first").next_index == 4
    assert [state.name for state in ledger.batches()] == ["first", "second"]
    assert [state.lane for state in ledger.batches()] == ["live", "bulk"]
    ledger.forget("first")
    assert [state.name for state in ledger.batches()] == ["second"]


def test_nothing_of_a_closed_batch_is_left(ledger, client):
    ledger.open_batch(batch(2))
    put(ledger, 0, 1)
    for index in (0, 1):
        ledger.finish(job(index), claimed(ledger, job(index)).owner, "done")
    client.delete(QUEUES["bulk"])
    ledger.forget("b")
    assert client.keys("dermbatch:*") == []
    ledger.finish(job(0), "late", "done")
    assert all(client.ttl(key) > 0 for key in client.keys("dermbatch:*"))


def test_enqueueing_moves_the_place_in_the_same_step(ledger):
    ledger.open_batch(batch(9))
    assert ledger.enqueue([message(0), message(1)], next_index=2) == 2
    assert ledger.batch("b").next_index == 2


def test_a_batch_is_steered(ledger):
    assert not ledger.steer("b", BatchControl(state="paused"))
    ledger.open_batch(batch(3))
    control = BatchControl(lane="live", weight=7, state="paused", why="lunch", tolerant=True)
    assert ledger.steer("b", control)
    assert ledger.batch("b").control == control


def test_failures_are_forgotten_to_be_tried_again(ledger):
    ledger.open_batch(batch(20))
    for index in (3, 7, 9):
        ledger.refuse("b", index, "no_triton" if index < 9 else "other")
    ledger.advance("b", 20)
    ledger.rewind("b", {7: "no_triton", 3: "no_triton"})
    state = ledger.batch("b")
    assert (state.failed, state.next_index, state.reasons) == (1, 3, {"other": 1})
    assert ledger.unfinished("b", 0, 10) == [0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_outcomes_without_a_record_are_forgotten(ledger):
    ledger.open_batch(batch(4))
    put(ledger, 0, 1)
    for index in (0, 1):
        ledger.finish(job(index), claimed(ledger, job(index)).owner, "done")
    ledger.advance("b", 4)
    ledger.miss("b", [1])
    assert (ledger.batch("b").done, ledger.batch("b").next_index) == (1, 1)


def test_a_batch_is_restored_with_its_outcomes_a_result_over_a_failure(ledger):
    ledger.restore(
        batch(12_000), BatchControl(weight=3), range(0, 12_000, 2), [(1, "bad_input"), (2, "bad_input")]
    )
    state = ledger.batch("b")
    assert (state.done, state.failed, state.weight, state.reasons) == (6000, 1, 3, {"bad_input": 1})


def test_a_cancelled_batchs_waiting_images_leave_and_running_ones_stay(ledger):
    ledger.open_batch(batch(5))
    put(ledger, 0, 1, 2)
    ledger.open_batch(batch(5, "other"))
    put(ledger, 0, batch="other")
    running = claimed(ledger, job(0))
    assert ledger.postpone(claimed(ledger, job(1)), 30) == 1
    assert ledger.batch("b").waiting == 1
    assert ledger.drop("b") == 2
    assert (ledger.batch("b").in_flight, ledger.batch("b").waiting) == (1, 0)
    assert ledger.batch("other").in_flight == 1
    assert ledger.claim(job(2), "w/5") == "unknown"
    assert ledger.heartbeat(running)


def test_a_full_redis_takes_no_more_images_but_finishes_those_in_flight(ledger, client):
    ledger.open_batch(batch(5))
    put(ledger, 0, 1)
    client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(LedgerUnavailable) as caught:
            ledger.enqueue([message(2)], next_index=3)
        assert caught.value.reason == "ledger_full"
        claim = claimed(ledger, job(0))
        assert ledger.heartbeat(claim)
        assert ledger.finish(job(0), claim.owner, "done")
        assert ledger.postpone(claimed(ledger, job(1)), 0.1) == 1
    finally:
        client.config_set("maxmemory", "0")
    assert (ledger.batch("b").done, ledger.batch("b").in_flight, ledger.batch("b").next_index) == (1, 1, 0)


def test_one_orchestrator_leads_and_another_takes_over(ledger):
    assert ledger.lead("a", 0.2)
    assert ledger.lead("a", 0.2)
    assert not ledger.lead("b", 0.2)
    ledger.resign("b")
    assert not ledger.lead("b", 0.2)
    time.sleep(0.25)
    assert ledger.lead("b", 0.2)
    ledger.resign("b")
    assert ledger.lead("a", 0.2)


def test_leases_that_all_run_out_at_once_get_a_last_chance(ledger, client):
    """As after a step of the clock or an outage: workers that live say so, the others' images come back."""
    ledger.open_batch(batch(300))
    put(ledger, *range(300))
    claims = [claimed(ledger, job(index), f"w/{index}") for index in range(300)]
    client.zadd("dermbatch:inflight", {claim.job.member: 1 for claim in claims})
    assert ledger.requeue("o", 500) == []
    assert all(ledger.heartbeat(claim) for claim in claims[:200])
    time.sleep(0.15)
    assert {due.why for due in ledger.requeue("o", 500)} == {"expired"}
    assert ledger.states() == {"queued": 100, "running": 200, "waiting": 0, "poison": 0}


def test_nothing_stays_in_flight_for_longer_than_it_may(ledger, client):
    """A clock that stepped back leaves times in the far future behind."""
    put(ledger)
    claimed(ledger, job())
    client.zadd("dermbatch:inflight", {"b:0": (time.time() + 3600) * 1000})
    assert ledger.requeue("o") == []
    (due,) = wait_due(ledger)
    assert due.why == "expired"


def test_a_sleeping_leader_is_woken(ledger):
    ledger.wake()
    ledger.wake()
    started = time.monotonic()
    ledger.sleep(100)
    assert time.monotonic() - started < 60
    ledger.sleep(0.1)


def test_a_redis_that_lost_its_data_remembers_nothing(ledger, client):
    assert not ledger.remembers()
    ledger.requeue("o")
    assert ledger.remembers()
    client.flushall()
    assert not ledger.remembers()


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
        put(ledger)


def test_a_claim_says_how_long_its_image_waited_and_where(ledger, client):
    put(ledger, 0, lane="live")
    put(ledger, 1)
    entry = client.hget("dermbatch:states", "b:0")
    since = int(entry.split("|")[5])
    client.hset("dermbatch:states", "b:0", entry.replace(str(since), str(since - 40_000)))
    live, bulk = claimed(ledger, job(0)), claimed(ledger, job(1))
    assert (live.lane, bulk.lane) == ("live", "bulk")
    assert 40 <= live.waited < 60
    assert 0 <= bulk.waited < 20


def test_images_in_flight_are_counted_by_lane_and_state(ledger):
    put(ledger, 0, 1, lane="live")
    put(ledger, 2, 3, 4)
    claimed(ledger, job(2))
    ledger.postpone(claimed(ledger, job(3)), 30)
    counted = ledger.states_by_lane()
    assert counted["live"] == {"queued": 2, "running": 0, "waiting": 0, "poison": 0}
    assert counted["bulk"] == {"queued": 1, "running": 1, "waiting": 1, "poison": 0}


def test_redis_says_what_it_uses_and_may_use(ledger, client):
    assert ledger.memory()[1] == 0
    client.config_set("maxmemory", 2**30)
    try:
        used, limit = ledger.memory()
    finally:
        client.config_set("maxmemory", 0)
    assert limit == 2**30
    assert 100_000 < used < limit
