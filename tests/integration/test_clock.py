"""The clock of the machine that Redis runs on is stepped: nothing is lost, and nothing is poison."""

import os
import time
from collections import Counter

import pytest
from messages import job_of, messages_of

from benchmarks.killloop import work
from benchmarks.killloop.clock import SteppedClock, library
from benchmarks.killloop.house import House
from benchmarks.killloop.verdict import judge, no_op_artifacts_whole
from dermbatch.ledger import Claim, Ledger
from dermbatch.settings import LedgerSettings
from dermbatch.store import ObjectStore
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import python_module
from orchestrator.stack.servers.redis import redis_part
from tests.needed import missing
from tests.waiting import wait_for

HOUR = 3600
FAST = LedgerSettings(lease=1, heartbeat=0.3, queued_look=0.5, first_pause=0.1, longest_pause=0.5)
IMAGES = 400


@pytest.fixture
def stepped(tmp_path):
    """A ledger on a Valkey of its own, and what steps the clock of that; returns when it has stepped."""
    preload = library() or missing("libfaketime", "libfaketime")
    part, settings = redis_part(
        tmp_path / "redis", tmp_path / "redis.log", free_ports(1)[0], base_environment(os.environ)
    )
    clock = SteppedClock([part], tmp_path / "clock", preload)
    part.start()
    try:
        part.wait()
        ledger = Ledger(settings, FAST)
        ledger.images.requeue("o")

        def step(seconds):
            clock.step(seconds)
            wait_for(lambda: abs(ledger.images._redis.time()[0] - time.time() - seconds) < 5)

        yield ledger, step, settings
    finally:
        part.stop()


@pytest.mark.parametrize("images", [1, 300])
def test_workers_that_live_keep_their_images_through_a_step_forwards(stepped, images):
    ledger, step_to, settings = stepped
    jobs = [job_of(index) for index in range(images)]
    ledger.images.enqueue(messages_of(jobs, settings))
    claims = [ledger.images.claim(job, "w") for job in jobs]
    assert all(isinstance(claim, Claim) for claim in claims)
    step_to(HOUR)
    due = [one for _ in range(3) for one in ledger.images.requeue("o")]  # looks come before the next heartbeat
    assert due == []
    assert all(ledger.images.heartbeat(claim) for claim in claims)
    assert all(ledger.images.finish(claim.job, "w", "done") for claim in claims)


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_dead_workers_image_comes_back_through_a_step(stepped, step):
    ledger, step_to, settings = stepped
    ledger.images.enqueue(messages_of([job_of(0)], settings))
    assert isinstance(ledger.images.claim(job_of(0), "dead"), Claim)
    step_to(step)
    due = wait_for(lambda: ledger.images.requeue("o"))
    assert [(one.why, one.lease_expired) for one in due] == [("expired", True)]
    again = ledger.images.claim(job_of(0), "w")
    assert isinstance(again, Claim)
    assert again.attempt == 2


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_pause_ends_through_a_step(stepped, step):
    ledger, step_to, settings = stepped
    ledger.images.enqueue(messages_of([job_of(0)], settings))
    ledger.images.postpone(ledger.images.claim(job_of(0), "w"), 0.3)
    step_to(step)
    assert [one.why for one in wait_for(lambda: ledger.images.requeue("o"))] == ["resend"]


def test_steps_never_make_poison(stepped):
    ledger, step_to, settings = stepped
    ledger.images.enqueue(messages_of([job_of(0)], settings))
    claim = ledger.images.claim(job_of(0), "w")
    for step in (HOUR, 0, 2 * HOUR, -HOUR, HOUR, 3 * HOUR):
        step_to(step)
        assert ledger.images.requeue("o") == []
        assert ledger.images.heartbeat(claim)
        time.sleep(0.2)
        assert ledger.images.requeue("o") == []
    assert ledger.snapshot().states["running"] == 1


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_another_orchestrator_takes_the_lead_of_a_dead_one_through_a_step(stepped, step):
    ledger, step_to, _ = stepped
    assert ledger.slots.lead("dead", 1)
    assert not ledger.slots.lead("next", 1)
    step_to(step)
    wait_for(lambda: ledger.slots.lead("next", 1))


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_slots_that_are_gone_are_forgotten_and_others_stay_through_a_step(stepped, step):
    ledger, step_to, _ = stepped
    ledger.slots.report("gone")
    step_to(step)
    ledger.slots.report("here")
    assert ledger.slots.live() == 1


def test_a_batch_ends_whole_whatever_the_clock_does(tmp_path):
    library() or missing("libfaketime", "libfaketime")
    programs = {
        "orchestrator-1": python_module("orchestrator"),
        "worker-1": python_module("benchmarks.killloop.worker"),
    }
    house = House(tmp_path / "house", programs, slots=3, ledger=LedgerSettings(lease=3, heartbeat=1))
    try:
        house.start_servers()
        store = ObjectStore(house.straight)
        batch = work.no_op_batch(work.BATCH, IMAGES)
        work.submit(store, batch, work.entries(IMAGES))
        house.start_programs()
        for turn, step in enumerate((HOUR, -HOUR, 60, 0)):
            wait_for(lambda turn=turn: house.recorded() > IMAGES * turn / 5, 60)
            house.clock.step(step)
        wait_for(lambda: work.closed(store, batch.name), 60)
        verdict = judge(store, house.log, batch, no_op_artifacts_whole, Counter(), ours=True)
        house.mend()
    finally:
        house.stop()
    assert (verdict.lost, verdict.duplicated, verdict.torn, verdict.failed) == (0, 0, 0, {}), verdict.complaints
    assert house.own_deaths == {}
