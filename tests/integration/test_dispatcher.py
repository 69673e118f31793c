"""The dispatcher with a real ledger and a real store: what is in the queue when, and what becomes of trouble."""

import time
from collections import Counter

import pytest
from orchestra import LEDGER, Orchestra, there

from dermbatch import layout
from dermbatch.errors import LedgerUnavailable, StoreUnavailable
from dermbatch.records.asked import BatchControl, Refusal
from dermbatch.records.outcome import FailureRecord
from dermbatch.store import ObjectStore
from orchestrator.planning.intake.candidates import Candidate
from orchestrator.steering import controls
from orchestrator.steering.controls import begin
from tests.outcome_samples import batch_of, entry_of, result_of, write_manifest, write_record
from tests.waiting import wait_for


def indices(jobs, batch="b"):
    return [job.index for job in jobs if job.batch == batch]


def test_the_window_bounds_what_is_in_flight_over_manifest_parts(orchestra):
    count = layout.PART_SIZE + 50
    batch = batch_of("b", count)
    write_manifest(orchestra.store, batch, map(entry_of, range(count)))
    begin(orchestra.store, orchestra.ledger, batch)
    orchestra.ledger.slots.report("w/1")
    orchestra.ledger.slots.report("w/2")
    assert orchestra.dispatcher.feed() == 6
    assert orchestra.dispatcher.feed() == 0
    seen = []
    while jobs := orchestra.take():
        assert len(jobs) == orchestra.ledger.images.in_flight() >= min(6, count - len(seen))
        for job in jobs:
            orchestra.ledger.images.finish(job, "w", "done")
        seen += jobs
        orchestra.dispatcher.feed()
    assert indices(seen) == list(range(count))
    assert orchestra.state().finished


def test_the_window_grows_with_speed_but_not_beyond_its_bound(empty_redis, empty_store):
    orchestra = Orchestra(empty_redis, empty_store, LEDGER.model_copy(update={"window_most": 40}))
    try:
        orchestra.plan(900)
        orchestra.ledger.slots.report("w/1")
        sizes = []
        while orchestra.dispatcher.feed():
            jobs = orchestra.take()
            sizes.append(len(jobs))
            for job in jobs:
                orchestra.ledger.images.finish(job, "w", "done")
    finally:
        orchestra.end()
    assert (sizes[0], max(sizes)) == (3, 40)
    assert orchestra.state().finished


def test_batches_share_a_lane_by_weight_and_each_lane_has_its_own_window(orchestra):
    orchestra.plan(50, "old")
    orchestra.plan(50, "new", weight=3)
    orchestra.plan(4, "urgent", "live")
    assert orchestra.dispatcher.feed() == 16
    assert Counter(job.batch for job in orchestra.take("live")) == {"urgent": 4}
    bulk = orchestra.take("bulk")
    assert Counter(job.batch for job in bulk) == {"old": 3, "new": 9}
    for _ in range(4):
        orchestra.done(*bulk)
        orchestra.dispatcher.feed()
        bulk = orchestra.take("bulk")
        assert Counter(job.batch for job in bulk) == {"old": 3, "new": 9}


def test_a_batch_whose_last_images_wait_takes_nothing_from_the_others(orchestra):
    for name in ("a1", "a2", "a3"):
        orchestra.plan(1, name)
    orchestra.dispatcher.feed()
    for job in orchestra.take():
        orchestra.ledger.images.postpone(orchestra.claim(job), 60)
    orchestra.plan(50, "large")
    assert orchestra.dispatcher.feed() == 12
    assert Counter(job.batch for job in orchestra.take()) == {"large": 12}


def test_many_small_batches_together_stay_within_the_window(orchestra):
    for number in range(20):
        orchestra.plan(4, f"small-{number}")
    for _ in range(10):
        orchestra.dispatcher.feed()
        assert orchestra.ledger.images.in_flight() <= 32  # the window of 12, rounded up for each of 20
    first = orchestra.take()
    orchestra.done(*first)
    assert len({job.member for job in first + orchestra.work_off()}) == 80


def test_images_that_wait_out_pauses_do_not_hold_up_others(orchestra):
    orchestra.plan(100)
    orchestra.dispatcher.feed()
    first = orchestra.take()
    for job in first:
        orchestra.ledger.images.postpone(orchestra.claim(job), 60)
    assert orchestra.dispatcher.feed() == len(first)
    assert indices(orchestra.take()) == list(range(12, 24))


def test_in_an_outage_where_all_wait_feeding_ends_all_the_same(orchestra):
    orchestra.plan(200)
    for _ in range(20):
        orchestra.dispatcher.feed()
        for job in orchestra.take():
            orchestra.ledger.images.postpone(orchestra.claim(job), 60)
    assert orchestra.ledger.images.in_flight() <= 12 * 5


def test_a_new_dispatcher_goes_on_where_the_last_one_stopped(orchestra, empty_redis, empty_store):
    orchestra.plan(30)
    orchestra.dispatcher.feed()
    first = orchestra.take()
    orchestra.done(*first)
    other = Orchestra(empty_redis, empty_store)
    try:
        other.dispatcher.feed()
        second = other.take()
    finally:
        other.end()
    assert indices(second)[0] == indices(first)[-1] + 1


def test_two_dispatchers_at_once_put_no_image_into_the_queue_twice(orchestra, empty_redis, empty_store):
    orchestra.plan(60)
    other = Orchestra(empty_redis, empty_store)
    seen = []
    try:
        for turn in range(40):
            (orchestra, other)[turn % 2].dispatcher.feed()
            other.dispatcher.feed()
            jobs = orchestra.take()
            seen += jobs
            orchestra.done(*jobs)
    finally:
        other.end()
    assert sorted(indices(seen)) == list(range(60))


def test_duplicates_say_so_and_the_canary_has_its_word_on_live_jobs_alone(empty_redis, empty_store):
    def choose(job):
        return job.model_copy(update={"name": "chosen"})

    twice = [Candidate(f"x{n}", uri=f"s3://bucket/x{n}", size=1, etag="ab" * 16) for n in range(2)]
    orchestra = Orchestra(empty_redis, empty_store, choose=choose)
    try:
        orchestra.plan(twice, "bulky")
        orchestra.plan(twice, "lively", "live")
        orchestra.dispatcher.feed()
        bulk, live = orchestra.take("bulk"), orchestra.take("live")
    finally:
        orchestra.end()
    assert [job.duplicate_of for job in bulk] == [job.duplicate_of for job in live] == [None, 0]
    assert ([job.name for job in bulk], [job.name for job in live]) == (["x0", "x1"], ["chosen", "chosen"])
    assert (bulk[0].etag, bulk[0].size) == ("ab" * 16, 1)


def test_refused_inputs_fail_without_a_worker(orchestra):
    refusal = Refusal(reason="zip_corrupt", message="it is broken")
    orchestra.plan([Candidate("a.zip", refusal=refusal), *there(1)])
    orchestra.dispatcher.feed()
    assert indices(orchestra.take()) == [1]
    state = orchestra.state()
    assert (state.done, state.failed, state.reasons) == (0, 1, {"zip_corrupt": 1})
    written = FailureRecord.model_validate_json(orchestra.key(layout.failure("b", 0)))
    assert (written.name, written.reason, written.message) == ("a.zip", "zip_corrupt", "it is broken")


def crash(orchestra, job):
    """The worker of an image dies; what is due then is looked after."""
    orchestra.claim(job)
    wait_for(orchestra.dispatcher.repair, 10)


def test_poison_is_recorded_and_the_batch_goes_on(orchestra):
    orchestra.plan(2)
    orchestra.dispatcher.feed()
    poison, other = orchestra.take()
    crash(orchestra, poison)
    orchestra.done(other)
    written = FailureRecord.model_validate_json(orchestra.key(layout.failure("b", 0)))
    assert (written.reason, written.attempts, written.permanent) == ("poison", 1, True)
    state = orchestra.state()
    assert (state.done, state.failed, state.reasons, state.finished) == (1, 1, {"poison": 1}, True)


def test_poison_that_has_its_result_is_done(orchestra):
    orchestra.plan(1)
    orchestra.dispatcher.feed()
    (job,) = orchestra.take()
    write_record(orchestra.store, result_of("b", 0))  # and then the worker died
    crash(orchestra, job)
    assert (orchestra.state().done, orchestra.state().failed) == (1, 0)
    assert orchestra.key(layout.failure("b", 0)) is None


def damage(body):
    """Line 3 is cut off."""
    lines = body.splitlines(keepends=True)
    return b"".join([*lines[:2], lines[2][:20] + b"\n", *lines[3:]])


def twist(body):
    """Two lines changed places."""
    lines = body.splitlines(keepends=True)
    return b"".join([*lines[:2], lines[3], lines[2], *lines[4:]])


def shorten(body):
    return b"".join(body.splitlines(keepends=True)[:2])


@pytest.mark.parametrize("how", [damage, twist, shorten])
def test_a_damaged_manifest_pauses_its_batch_alone_and_once_mended_it_goes_on(orchestra, how):
    orchestra.plan(30, "hurt")
    orchestra.plan(30, "well")
    key = layout.manifest_part("hurt", "000000")
    whole = orchestra.key(key)
    orchestra.store.put(key, how(whole), "application/x-ndjson")
    assert {job.batch for job in orchestra.work_off()} == {"well"}
    state = orchestra.state("hurt")
    assert (state.state, state.next_index) == ("paused", 0)
    assert "part 000000" in state.why
    assert "line 3" in state.why
    assert BatchControl.model_validate_json(orchestra.control("hurt")) == state.control
    orchestra.store.put(key, whole, "application/x-ndjson")
    controls.resume(orchestra.store, orchestra.ledger, "hurt")
    assert sorted(indices(orchestra.work_off(), "hurt")) == list(range(30))
    assert not orchestra.state("hurt").tolerant


def test_a_missing_part_is_named(orchestra):
    orchestra.plan(3)
    orchestra.store.delete(layout.manifest_part("b", "000000"))
    orchestra.dispatcher.feed()
    assert "part 000000 of the manifest of batch 'b' is damaged: it is missing" in orchestra.state().why


@pytest.mark.parametrize(("body", "says"), [(b"{}", "is damaged"), (None, "is missing")])
def test_a_batch_record_that_is_damaged_or_missing_pauses_its_batch_alone(orchestra, body, says):
    orchestra.plan(3, "hurt")
    orchestra.plan(3, "well")
    key = layout.batch_record("hurt")
    whole = orchestra.key(key)
    if body is None:
        orchestra.store.delete(key)
    else:
        orchestra.store.put(key, body, "application/json")
    assert len(orchestra.work_off()) == 3
    state = orchestra.state("hurt")
    assert state.state == "paused"
    assert f"batch.json of batch 'hurt' {says}" in state.why
    orchestra.store.put(key, whole, "application/json")
    controls.resume(orchestra.store, orchestra.ledger, "hurt")
    assert sorted(indices(orchestra.work_off(), "hurt")) == [0, 1, 2]


def test_too_many_failures_pause_a_batch_until_a_person_wants_it_to_go_on(orchestra):
    orchestra.plan(60, max_failed_share=0.25)
    orchestra.dispatcher.feed()
    orchestra.failed(*orchestra.take())
    orchestra.dispatcher.feed()
    jobs = orchestra.take()
    assert jobs  # 12 outcomes are too few to judge by
    orchestra.done(*jobs)
    orchestra.dispatcher.feed()
    state = orchestra.state()
    assert (state.state, state.why) == ("paused", "12 of 24 images failed, more than 25%")
    assert orchestra.take() == []
    controls.resume(orchestra.store, orchestra.ledger, "b")
    assert len(orchestra.work_off()) == 36


def test_a_batch_that_was_paused_by_hand_is_still_paused_for_its_failures(orchestra):
    orchestra.plan(60, max_failed_share=0.25)
    controls.pause(orchestra.store, orchestra.ledger, "b")
    controls.resume(orchestra.store, orchestra.ledger, "b")
    for _ in range(2):
        orchestra.dispatcher.feed()
        orchestra.failed(*orchestra.take())
    orchestra.dispatcher.feed()
    assert "24 of 24 images failed" in orchestra.state().why


class Failing(ObjectStore):
    """The same store, whose writes or reads fail for a while."""

    def __init__(self, settings, what):
        super().__init__(settings)
        self.what = what

    def put(self, key, *args, **more):
        if self.what in key:
            raise StoreUnavailable("the object store is gone")
        return super().put(key, *args, **more)

    def get(self, bucket, key, **more):
        if self.what in key:
            raise StoreUnavailable("the object store is gone")
        return super().get(bucket, key, **more)


@pytest.mark.parametrize("what", ["failed/", "manifest/", "batch.json"])
def test_what_a_failing_turn_has_read_is_not_forgotten(orchestra, empty_store, what):
    refusal = Refusal(reason="zip_corrupt", message="it is broken")
    orchestra.plan([*there(3), Candidate("a.zip", refusal=refusal), *there(3, "y")])
    failing = Failing(empty_store, what)
    orchestra.dispatcher._store = failing
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            orchestra.dispatcher.feed()
    failing.what = "nothing"
    assert indices(orchestra.work_off()) == [0, 1, 2, 4, 5, 6]
    assert (orchestra.state().done, orchestra.state().failed) == (6, 1)


def test_a_full_redis_fails_a_turn_and_loses_nothing(orchestra):
    orchestra.plan(40)
    orchestra.dispatcher.feed()
    first = orchestra.take()
    used = orchestra.client.info("memory")["used_memory"]
    orchestra.client.config_set("maxmemory", max(1, used - 100_000))
    try:
        orchestra.done(*first)  # what frees memory is allowed
        with pytest.raises(LedgerUnavailable, match="full") as caught:
            orchestra.dispatcher.feed()
        assert caught.value.reason == "ledger_full"
        assert orchestra.ledger.images.in_flight() == 0
        assert orchestra.state().next_index == 12
        orchestra.dispatcher.repair()
        controls.pause(orchestra.store, orchestra.ledger, "b")
        assert orchestra.state().state == "paused"
        controls.resume(orchestra.store, orchestra.ledger, "b")
    finally:
        orchestra.client.config_set("maxmemory", 0)
    assert sorted(indices(first + orchestra.work_off())) == list(range(40))


def test_a_rewound_batch_passes_over_what_is_finished_without_reading_it(orchestra, empty_store):
    count = 2 * layout.PART_SIZE + 10
    batch = batch_of("b", count)
    write_manifest(orchestra.store, batch, map(entry_of, range(count)))
    begin(orchestra.store, orchestra.ledger, batch)
    done = set(range(count)) - {3, count - 1}
    orchestra.ledger.batches.restore(batch, BatchControl(), done, [(3, "truncated"), (count - 1, "truncated")])
    orchestra.ledger.batches.advance("b", count)
    orchestra.ledger.batches.rewind("b", {3: "truncated", count - 1: "truncated"})
    assert (orchestra.state().failed, orchestra.state().reasons, orchestra.state().next_index) == (0, {}, 3)
    read = []

    class Noting(ObjectStore):
        def get(self, bucket, key, **more):
            read.append(key)
            return super().get(bucket, key, **more)

    orchestra.dispatcher._store = Noting(empty_store)
    orchestra.dispatcher.feed()
    assert indices(orchestra.take()) == [3, count - 1]
    assert [key for key in read if "manifest" in key] == [
        layout.manifest_part("b", "000000"),
        layout.manifest_part("b", "000002"),
    ]


def test_a_batch_fed_to_its_end_that_is_not_finished_is_gone_through_again(orchestra):
    orchestra.plan(8)
    orchestra.ledger.batches.advance(
        "b", 8
    )  # as if an older Redis file had been loaded: nothing in flight, nothing done
    assert sorted(indices(orchestra.work_off())) == list(range(8))


def test_the_rate_of_a_batch_is_told(orchestra):
    orchestra.plan(30)
    orchestra.dispatcher.feed()
    orchestra.done(*orchestra.take())
    time.sleep(1.1)
    orchestra.dispatcher.feed()
    orchestra.dispatcher.feed()
    assert orchestra.state().rate > 0


def test_the_time_left_is_told_from_what_images_of_each_kind_took(orchestra):
    orchestra.plan(40)
    orchestra.dispatcher.feed()
    assert orchestra.state().seconds_left is None
    for _ in range(30):
        for job in orchestra.take():
            kind, seconds = ("enlarged", 4.0) if job.index % 2 else ("plain", 0.5)
            orchestra.ledger.images.finish(job, "w", "done", kind=kind, seconds=seconds)
            orchestra.ledger.images.finish(job, "w", "done", kind=kind, seconds=seconds)  # told twice
        orchestra.dispatcher.feed()
        if orchestra.state().done >= 24:
            break
    time.sleep(1.1)
    orchestra.dispatcher.feed()
    state = orchestra.state()
    assert sum(one.images for one in state.spent.values()) == state.done
    assert state.seconds_left > 0
