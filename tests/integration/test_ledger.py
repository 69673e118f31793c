"""Images in flight and slots in the ledger: claims, leases, messages, poison, and what one scrape asks."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from in_flight import SETTINGS, batch, claimed, job, put, taken, wait_due

from dermbatch.errors import LedgerUnavailable
from dermbatch.ledger import Claim, Ledger
from dermbatch.ledger.queue import QUEUES
from dermbatch.settings import RedisSettings
from orchestrator.dispatch.ledger_metrics import LedgerMetrics
from orchestrator.stack.ports import free_ports


def test_of_many_claims_one_wins(ledger):
    assert put(ledger)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: ledger.images.claim(job(), f"w/{n}"), range(16)))
    assert sum(isinstance(answer, Claim) for answer in answers) == 1
    assert answers.count("taken") == 15


def test_an_image_in_flight_or_finished_is_not_enqueued_again(ledger):
    assert put(ledger)
    assert not put(ledger)
    claim = claimed(ledger, job())
    assert ledger.images.finish(job(), claim.owner, "done")
    assert not put(ledger)
    assert ledger.images.claim(job(), "w/1") == "finished"


def test_an_image_the_ledger_does_not_know_is_not_claimed(ledger):
    assert ledger.images.claim(job(), "w/0") == "unknown"


def test_a_silent_workers_image_comes_back_and_its_claim_is_void(ledger):
    put(ledger)
    silent = claimed(ledger, job())
    assert ledger.images.requeue("o") == []
    (due,) = wait_due(ledger)
    assert (due.why, due.attempts, due.payload) == ("expired", 1, "message b:0")
    assert not ledger.images.heartbeat(silent)
    again = claimed(ledger, job(), "w/1")
    assert again.attempt == 2
    assert not ledger.images.finish(job(), silent.owner, "failed")
    assert ledger.images.heartbeat(again)


def test_heartbeats_keep_a_lease(ledger):
    put(ledger)
    claim = claimed(ledger, job())
    for _ in range(8):
        time.sleep(0.1)
        assert ledger.images.heartbeat(claim)
        assert ledger.images.requeue("o") == []


def test_a_lost_message_is_sent_again_without_counting_a_crash(ledger, redis_client):
    put(ledger)
    for _ in range(4):
        assert taken(redis_client) == "message b:0"
        (due,) = wait_due(ledger)
        assert (due.why, due.attempts) == ("resend", 0)
    assert redis_client.llen(QUEUES["bulk"]) == 1


def test_a_message_that_waits_in_the_queue_is_not_sent_twice(ledger, redis_client):
    put(ledger, 0, 1, lane="live")
    for _ in range(5):
        time.sleep(0.1)
        assert ledger.images.requeue("o") == []
    assert redis_client.llen(QUEUES["live"]) == 2
    assert ledger.snapshot().waits.get("live") > 0.4
    assert ledger.snapshot().waits.get("bulk") is None


def test_a_message_given_back_is_sent_again_at_once(ledger, redis_client):
    put(ledger)
    taken(redis_client)
    assert ledger.images.give_back("b", 0)
    assert [due.why for due in ledger.images.requeue("o")] == ["resend"]
    assert taken(redis_client) == "message b:0"
    claimed(ledger, job())
    assert not ledger.images.give_back("b", 0)


def test_three_crashes_make_poison_that_only_the_reconciler_may_end(ledger):
    put(ledger)
    whys = []
    for attempt in range(3):
        claimed(ledger, job(), f"w/{attempt}")
        (due,) = wait_due(ledger)
        whys.append(due.why)
    assert whys == ["expired", "expired", "poison"]
    assert ledger.images.claim(job(), "w/9") == "taken"
    assert ledger.snapshot().states["poison"] == 1
    assert not ledger.images.finish(job(), "w/2", "failed")
    assert ledger.images.finish(job(), "orchestrator", "failed")
    assert ledger.images.in_flight() == 0


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
    assert ledger.images.postpone(claim, 0.25) == 1
    assert ledger.images.claim(job(), "w/1") == "taken"
    assert ledger.images.requeue("o") == []
    (due,) = wait_due(ledger)
    assert due.why == "resend"
    again = claimed(ledger, job(), "w/1")
    assert again.attempt == 2
    assert ledger.images.postpone(claim, 1) == -1
    assert ledger.images.postpone(again, 1, counted=False) == 1


def test_one_orchestrator_leads_and_another_takes_over(ledger):
    assert ledger.slots.lead("a", 0.2)
    assert ledger.slots.lead("a", 0.2)
    assert not ledger.slots.lead("b", 0.2)
    ledger.slots.resign("b")
    assert not ledger.slots.lead("b", 0.2)
    time.sleep(0.25)
    assert ledger.slots.lead("b", 0.2)
    ledger.slots.resign("b")
    assert ledger.slots.lead("a", 0.2)


def test_leases_that_all_run_out_at_once_get_a_last_chance(ledger, redis_client):
    """As after a step of the clock or an outage: workers that live say so, the others' images come back."""
    ledger.batches.open(batch(300))
    put(ledger, *range(300))
    claims = [claimed(ledger, job(index), f"w/{index}") for index in range(300)]
    redis_client.zadd("dermbatch:inflight", {claim.job.member: 1 for claim in claims})
    assert ledger.images.requeue("o", 500) == []
    assert all(ledger.images.heartbeat(claim) for claim in claims[:200])
    time.sleep(0.15)
    assert {due.why for due in ledger.images.requeue("o", 500)} == {"expired"}
    assert ledger.snapshot().states == {"queued": 100, "running": 200, "waiting": 0, "poison": 0}


def test_nothing_stays_in_flight_for_longer_than_it_may(ledger, redis_client):
    """A clock that stepped back leaves times in the far future behind."""
    put(ledger)
    claimed(ledger, job())
    redis_client.zadd("dermbatch:inflight", {"b:0": (time.time() + 3600) * 1000})
    assert ledger.images.requeue("o") == []
    (due,) = wait_due(ledger)
    assert due.why == "expired"


def test_a_sleeping_leader_is_woken(ledger):
    ledger.slots.wake()
    ledger.slots.wake()
    started = time.monotonic()
    ledger.slots.sleep(20)
    assert time.monotonic() - started < 10
    ledger.slots.sleep(0.1)


def test_a_redis_that_lost_its_data_remembers_nothing(ledger, redis_client):
    assert not ledger.slots.remembers()
    ledger.images.requeue("o")
    assert ledger.slots.remembers()
    redis_client.flushall()
    assert not ledger.slots.remembers()


def test_slots_are_those_that_report(ledger):
    ledger.slots.report("w/1")
    ledger.slots.report("w/1")
    ledger.slots.report("w/2")
    assert ledger.slots.live() == 2
    ledger.slots.retire("w/1")
    assert ledger.slots.live() == 1


def test_a_redis_that_is_gone_is_a_transient_error():
    (port,) = free_ports(1)
    ledger = Ledger(RedisSettings(url=f"redis://127.0.0.1:{port}/0"), SETTINGS)
    with pytest.raises(LedgerUnavailable):
        put(ledger)


def test_a_claim_says_how_long_its_image_waited_and_where(ledger, redis_client):
    put(ledger, 0, lane="live")
    put(ledger, 1)
    entry = redis_client.hget("dermbatch:states", "b:0")
    since = int(entry.split("|")[5])
    redis_client.hset("dermbatch:states", "b:0", entry.replace(str(since), str(since - 40_000)))
    live, bulk = claimed(ledger, job(0)), claimed(ledger, job(1))
    assert (live.lane, bulk.lane) == ("live", "bulk")
    assert 40 <= live.waited < 60
    assert 0 <= bulk.waited < 20


def test_images_in_flight_are_counted_by_lane_and_state(ledger):
    put(ledger, 0, 1, lane="live")
    put(ledger, 2, 3, 4)
    claimed(ledger, job(2))
    ledger.images.postpone(claimed(ledger, job(3)), 30)
    counted = ledger.snapshot().lanes
    assert counted["live"] == {"queued": 2, "running": 0, "waiting": 0, "poison": 0}
    assert counted["bulk"] == {"queued": 1, "running": 1, "waiting": 1, "poison": 0}


def test_redis_says_what_it_uses_and_may_use(ledger, redis_client):
    assert ledger.snapshot().memory[1] == 0
    redis_client.config_set("maxmemory", 2**30)
    try:
        used, limit = ledger.snapshot().memory
    finally:
        redis_client.config_set("maxmemory", 0)
    assert limit == 2**30
    assert 100_000 < used < limit


def test_images_that_the_version_before_put_in_flight_are_gone_on_with(ledger, redis_client):
    """Its entries, word for word."""
    long = time.time() + 1000
    since = round((time.time() - 40) * 1000)
    entries = {
        "b:0": f"queued||0|0|0|{since}|dermbatch.live",
        "b:1": f"running|w/1/2-a|2|1|3|{since}|dermbatch.bulk",
        "b:2": f"waiting||1|0|1|{since}|dermbatch.bulk",
        "b:3": f"poison|o|3|3|0|{since}|dermbatch.bulk",
    }
    redis_client.hset("dermbatch:states", mapping=entries)
    redis_client.hset("dermbatch:jobs", mapping={member: f"message {member}" for member in entries})
    redis_client.zadd("dermbatch:inflight", dict.fromkeys(entries, round(long * 1000)))
    redis_client.hset("dermbatch:counts", mapping={"b": 4, "b|waiting": 1})
    moment = ledger.snapshot()
    assert moment.states == dict.fromkeys(("queued", "running", "waiting", "poison"), 1)
    assert moment.waits.keys() == {"live"}
    assert 40 <= moment.waits["live"] < 60
    claim = claimed(ledger, job(0), "w/2")
    assert (claim.attempt, claim.lane, claim.waited >= 40) == (1, "live", True)
    assert redis_client.hget("dermbatch:states", "b:0") == f"running|w/2|1|0|0|{since}|dermbatch.live"
    assert ledger.images.postpone(Claim(job(1), "w/1/2-a", 2), 0) == 4
    assert redis_client.hget("dermbatch:states", "b:1") == f"waiting||2|1|4|{since}|dermbatch.bulk"
    redis_client.zadd("dermbatch:inflight", {"b:2": 0, "b:3": 0})
    assert {(due.why, due.attempts) for due in wait_due(ledger)} >= {("resend", 1), ("poison", 3)}
    assert redis_client.hget("dermbatch:states", "b:2") == f"queued||1|0|1|{since}|dermbatch.bulk"
    assert redis_client.hget("dermbatch:states", "b:3") == f"poison|orchestrator|3|3|0|{since}|dermbatch.bulk"


def test_scripts_that_redis_has_forgotten_are_loaded_again(ledger, redis_client):
    put(ledger)
    redis_client.script_flush()
    assert ledger.snapshot().states["queued"] == 1
    claim = claimed(ledger, job())
    redis_client.script_flush()
    assert ledger.images.finish(job(), claim.owner, "done")


@pytest.fixture
def round_trips(monkeypatch):
    """What is sent to Redis from now on, an item a round trip."""
    sent, send = [], redis.Connection.send_packed_command
    monkeypatch.setattr(
        redis.Connection,
        "send_packed_command",
        lambda self, command, **more: (sent.append(command), send(self, command, **more))[1],
    )
    return sent


def test_one_scrape_is_one_round_trip(ledger, round_trips):
    for name, lane in (("first", "live"), ("second", "bulk")):
        ledger.batches.open(batch(5, name, lane))
        put(ledger, 0, 1, batch=name, lane=lane)
    ledger.slots.report("w/1")
    metrics = LedgerMetrics(ledger)
    list(metrics.collect())  # connected, and its script loaded
    round_trips.clear()
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }
    assert len(round_trips) == 1
    assert values["dermbatch_in_flight_images", "queued"] == 4
    assert values["dermbatch_queue_depth", "live"] == values["dermbatch_queue_depth", "bulk"] == 2
    assert values["dermbatch_worker_slots",] == 1
    assert values["dermbatch_open_batches", "open"] == 2
    assert values["dermbatch_work_images", "bulk", "backlog"] == 3
    assert values["dermbatch_redis_memory_bytes", "used"] > 100_000
    ledger.batches.all()
    ledger.batches.get("first")
    ledger.slots.live()
    round_trips.clear()
    assert [state.images for state in ledger.batches.all()] == [5, 5]
    assert ledger.batches.get("first").in_flight == 2
    assert ledger.slots.live() == 1
    assert len(round_trips) == 3
