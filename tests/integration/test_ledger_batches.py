"""Open batches in the ledger: their counts, their place, how they are steered, and whom they wake."""

import time

import pytest
from in_flight import batch, claimed, job, message, put, wait_due

from dermbatch.errors import LedgerUnavailable
from dermbatch.ledger.queue import QUEUES
from dermbatch.records.asked import BatchControl


def counts(ledger, name="b"):
    state = ledger.batches.get(name)
    return state.images, state.done, state.failed


def test_a_result_counts_whoever_tells_and_beats_a_failure(ledger):
    ledger.batches.open(batch(2))
    put(ledger)
    late = claimed(ledger, job())
    wait_due(ledger)
    current = claimed(ledger, job(), "w/1")
    assert ledger.images.finish(job(), late.owner, "done")
    assert not ledger.images.finish(job(), current.owner, "failed", "bad_input")
    assert counts(ledger) == (2, 1, 0)


def test_counts_are_derived_and_refusals_count_as_failed(ledger):
    assert ledger.batches.get("b") is None
    ledger.batches.open(batch(3))
    assert ledger.batches.refuse("b", 0, "zip_slip")
    assert not ledger.batches.refuse("b", 0, "zip_slip")
    put(ledger, 1, 2)
    assert ledger.batches.get("b").in_flight == 2
    for index, outcome, reason in ((1, "done", ""), (2, "failed", "truncated")):
        ledger.images.finish(job(index), claimed(ledger, job(index)).owner, outcome, reason)
    state = ledger.batches.get("b")
    assert (state.done, state.failed, state.finished, state.in_flight) == (1, 2, True, 0)
    assert state.reasons == {"zip_slip": 1, "truncated": 1}
    assert ledger.images.in_flight() == 0
    assert set(ledger.snapshot().states.values()) == {0}


def test_opening_a_batch_again_keeps_its_place(ledger):
    assert ledger.batches.open(batch(5, "first", "live"))
    ledger.batches.open(batch(5, "second"))
    ledger.batches.advance("first", 4)
    assert not ledger.batches.open(batch(5, "first", "live"))
    assert ledger.batches.get("first").next_index == 4
    assert [state.name for state in ledger.batches.all()] == ["first", "second"]
    assert [state.lane for state in ledger.batches.all()] == ["live", "bulk"]
    ledger.batches.forget("first")
    assert [state.name for state in ledger.batches.all()] == ["second"]


def test_nothing_of_a_closed_batch_is_left(ledger, redis_client):
    ledger.batches.open(batch(2))
    put(ledger, 0, 1)
    for index in (0, 1):
        ledger.images.finish(job(index), claimed(ledger, job(index)).owner, "done")
    redis_client.delete(QUEUES["bulk"])
    ledger.batches.forget("b")
    assert redis_client.keys("dermbatch:*") == []
    ledger.images.finish(job(0), "late", "done")
    assert all(redis_client.ttl(key) > 0 for key in redis_client.keys("dermbatch:*"))


def test_enqueueing_moves_the_place_in_the_same_step(ledger):
    ledger.batches.open(batch(9))
    assert ledger.images.enqueue([message(0), message(1)], next_index=2) == 2
    assert ledger.batches.get("b").next_index == 2


def test_a_batch_is_steered(ledger):
    assert not ledger.batches.steer("b", BatchControl(state="paused"))
    ledger.batches.open(batch(3))
    control = BatchControl(lane="live", weight=7, state="paused", why="lunch", tolerant=True)
    assert ledger.batches.steer("b", control)
    assert ledger.batches.get("b").control == control


def test_failures_are_forgotten_to_be_tried_again(ledger):
    ledger.batches.open(batch(20))
    for index in (3, 7, 9):
        ledger.batches.refuse("b", index, "no_triton" if index < 9 else "other")
    ledger.batches.advance("b", 20)
    ledger.batches.rewind("b", {7: "no_triton", 3: "no_triton"})
    state = ledger.batches.get("b")
    assert (state.failed, state.next_index, state.reasons) == (1, 3, {"other": 1})
    assert ledger.batches.unfinished("b", 0, 10) == [0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_outcomes_without_a_record_are_forgotten(ledger):
    ledger.batches.open(batch(4))
    put(ledger, 0, 1)
    for index in (0, 1):
        ledger.images.finish(job(index), claimed(ledger, job(index)).owner, "done")
    ledger.batches.advance("b", 4)
    ledger.batches.miss("b", [1])
    assert (ledger.batches.get("b").done, ledger.batches.get("b").next_index) == (1, 1)


def test_a_batch_is_restored_with_its_outcomes_a_result_over_a_failure(ledger):
    ledger.batches.restore(
        batch(12_000), BatchControl(weight=3), range(0, 12_000, 2), [(1, "bad_input"), (2, "bad_input")]
    )
    state = ledger.batches.get("b")
    assert (state.done, state.failed, state.weight, state.reasons) == (6000, 1, 3, {"bad_input": 1})


def test_a_cancelled_batchs_waiting_images_leave_and_running_ones_stay(ledger):
    ledger.batches.open(batch(5))
    put(ledger, 0, 1, 2)
    ledger.batches.open(batch(5, "other"))
    put(ledger, 0, batch="other")
    running = claimed(ledger, job(0))
    assert ledger.images.postpone(claimed(ledger, job(1)), 30) == 1
    assert ledger.batches.get("b").waiting == 1
    assert ledger.images.drop("b") == 2
    assert (ledger.batches.get("b").in_flight, ledger.batches.get("b").waiting) == (1, 0)
    assert ledger.batches.get("other").in_flight == 1
    assert ledger.images.claim(job(2), "w/5") == "unknown"
    assert ledger.images.heartbeat(running)


def test_a_full_redis_takes_no_more_images_but_finishes_those_in_flight(ledger, redis_client):
    ledger.batches.open(batch(5))
    put(ledger, 0, 1)
    redis_client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(LedgerUnavailable) as caught:
            ledger.images.enqueue([message(2)], next_index=3)
        assert caught.value.reason == "ledger_full"
        claim = claimed(ledger, job(0))
        assert ledger.images.heartbeat(claim)
        assert ledger.images.finish(job(0), claim.owner, "done")
        assert ledger.images.postpone(claimed(ledger, job(1)), 0.1) == 1
    finally:
        redis_client.config_set("maxmemory", "0")
    assert (
        ledger.batches.get("b").done,
        ledger.batches.get("b").in_flight,
        ledger.batches.get("b").next_index,
    ) == (1, 1, 0)


def test_the_last_outcome_of_a_batch_wakes_the_leader(ledger, redis_client):
    ledger.batches.open(batch(3))
    put(ledger, 0, 1)
    for index in (0, 1):  # nothing is in flight any more, but there is more to feed
        ledger.images.finish(job(index), claimed(ledger, job(index)).owner, "done")
    assert not redis_client.exists("dermbatch:wake")
    put(ledger, 2)
    ledger.batches.advance("b", 3)
    ledger.images.finish(job(2), claimed(ledger, job(2)).owner, "failed", "corrupt")
    assert redis_client.llen("dermbatch:wake") == 1


def test_a_batch_that_still_grows_wakes_nobody(ledger, redis_client):
    growing = batch(1).model_copy(update={"growing": True})
    ledger.batches.open(growing)
    put(ledger, 0)
    ledger.batches.advance("b", 1)
    ledger.images.finish(job(0), claimed(ledger, job(0)).owner, "done")
    assert not redis_client.exists("dermbatch:wake")


def test_who_waits_for_a_batch_is_woken_when_it_is_closed(ledger, redis_client):
    ledger.batches.open(batch(1))
    for _ in range(2):  # the first has subscribed, the second heard of that
        ledger.batches.sleep(0.05)
    ledger.batches.forget("b")
    started = time.monotonic()
    ledger.batches.sleep(20)
    assert time.monotonic() - started < 10
