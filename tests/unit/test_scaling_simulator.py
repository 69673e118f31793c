"""The simulator of scaling against closed forms of queueing theory, and its rules against what Kubernetes says."""

import heapq
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from benchmarks.scaling.autoscaler import Autoscaler
from benchmarks.scaling.options import (
    NodePrices,
    Options,
    Speed,
    Target,
    Times,
    Trigger,
    changed,
    measured,
    read_rules,
)
from benchmarks.scaling.simulation import Simulation
from benchmarks.scaling.traces import TRACES, Arrival, Loss, Trace, morning_dump
from dermbatch.records.asked import BatchSummary
from dermbatch.stages import Stage

AT_ONCE = Times(gpu_node=0, cpu_node=0, pod=0, triton=0, node_idle=0)


def fixed(live=0, bulk=0, triton=1):
    """Rules under which nothing is scaled."""
    sizes = {"worker-live": live, "worker-bulk": bulk, "triton": triton}
    return changed(
        read_rules(),
        [f"{name}.{end}_replicas={size}" for name, size in sizes.items() for end in ("min", "max")],
    )


def run(arrivals, *, rules, speed, times=AT_ONCE, losses=(), until=0.0, **more):
    arrivals = tuple(Arrival(time, lane, images) for time, lane, images in arrivals)
    options = Options(rules, speed, times, NodePrices(gpu_node=2, cpu_node=1, workers_on_a_node=1), **more)
    return Simulation(Trace("test", arrivals, tuple(losses), until), options).run()


def starts_of_many_servers(arrivals, seconds, servers):
    """When each begins, first come first served (Kiefer and Wolfowitz 1955): the next server that is free."""
    free = [0.0] * servers
    begun = []
    for arrival in arrivals:
        begin = max(arrival, heapq.heappop(free))
        heapq.heappush(free, begin + seconds)
        begun.append(begin)
    return np.array(begun)


def poisson(rate, count, seed=1):
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


# Closed forms


def test_below_capacity_constant_arrivals_do_not_wait():
    speed = Speed(worker=0.9, triton=0.1, slots=2)
    outcome = run([(float(n), "live", 1) for n in range(100)], rules=fixed(live=1), speed=speed)
    assert max(outcome.waits["live"]) == 0
    assert outcome.last["live"] == pytest.approx(99 + 1)


def test_above_capacity_they_wait_for_what_is_missing():
    # One slot, 2 s an image, one image a second: image n begins at 2n, so it waits for n seconds.
    speed = Speed(worker=1.5, triton=0.5, slots=1)
    outcome = run([(float(n), "live", 1) for n in range(100)], rules=fixed(live=1), speed=speed)
    assert outcome.waits["live"] == pytest.approx(list(range(100)))


def test_a_batch_takes_what_its_slots_or_its_servers_allow():
    speed = Speed(worker=1, triton=0.01, slots=4)
    slots = run([(0.0, "bulk", 800)], rules=fixed(bulk=2, triton=8), speed=speed)
    assert slots.last["bulk"] == pytest.approx(800 / 8 * 1.01, rel=1e-6)
    speed = Speed(worker=0.01, triton=0.5, slots=4)
    servers = run([(0.0, "bulk", 800)], rules=fixed(bulk=2, triton=2), speed=speed)
    assert servers.last["bulk"] == pytest.approx(0.01 + 800 / 2 * 0.5, rel=1e-6)
    assert servers.busy_hours * 3600 == pytest.approx(800 * 0.5)


@pytest.mark.parametrize(("slots", "load"), [(1, 0.7), (4, 0.9)])
def test_waiting_is_that_of_an_m_d_c_queue(slots, load):
    arrivals = poisson(load * slots, 10_000)
    speed = Speed(worker=0.999, triton=0.001, slots=slots)  # a second in all, and Triton is never waited for long
    outcome = run([(t, "live", 1) for t in arrivals], rules=fixed(live=1, triton=slots), speed=speed)
    expected = starts_of_many_servers(arrivals, 1.0, slots) - arrivals
    np.testing.assert_allclose(outcome.waits["live"], expected, atol=1e-6)
    if slots == 1:  # Pollaczek and Khinchine: half the wait of an M/M/1 queue
        assert np.mean(outcome.waits["live"]) == pytest.approx(load / (2 * (1 - load)), rel=0.1)


def test_littles_law_holds_in_a_tandem_of_slots_and_servers():
    arrivals, end = poisson(8, 8000), 1000.0
    arrivals = arrivals[arrivals < end]
    outcome = run(
        [(t, "live", 1) for t in arrivals],
        rules=fixed(live=2, triton=1),
        speed=Speed(worker=0.3, triton=0.1, slots=4),
    )
    # Through one server of 0.1 s, in the order in which they come: image n leaves at least 0.1 s after n - 1.
    begun = arrivals + np.array(outcome.waits["live"])
    left = starts_of_many_servers(begun + 0.3, 0.1, 1) + 0.1
    assert outcome.image_seconds == pytest.approx(float(np.sum(left - arrivals)), rel=1e-9)
    assert outcome.last["live"] == pytest.approx(left[-1])
    assert sum(outcome.took) == pytest.approx(outcome.image_seconds)


@pytest.fixture
def few_jobs(monkeypatch):
    """Batches of more images than these are simulated several images at a time."""
    monkeypatch.setattr("benchmarks.scaling.simulation._JOBS", 40_000)


@pytest.mark.usefixtures("few_jobs")
def test_several_bulk_images_at_a_time_come_to_the_same():
    speed = Speed(worker=0.14, triton=0.05, slots=4)
    outcome = run([(0.0, "bulk", 200_000)], rules=fixed(bulk=8, triton=4), speed=speed)
    assert outcome.finished["bulk"] == 200_000
    assert outcome.last["bulk"] == pytest.approx(200_000 * 0.05 / 4, rel=1e-3)


@pytest.mark.usefixtures("few_jobs")
def test_a_live_image_does_not_wait_for_all_of_a_job_of_several():
    speed = Speed(worker=0.14, triton=0.05, slots=4)
    live = [(90.0 * n, "live", 1) for n in range(1, 10)]
    one_by_one, several = (
        run([(0.0, "bulk", images), *live], rules=fixed(live=1, bulk=8), speed=speed).took
        for images in (20_000, 200_000)
    )
    # Of 32 slots, some three have their image outside Triton, the others are ahead of it at the only server.
    assert one_by_one == pytest.approx([0.14 + 30 * 0.05] * 9, abs=0.1)
    assert several == pytest.approx(one_by_one, abs=0.1)


def test_bulk_has_its_share_while_live_images_wait():
    speed = Speed(worker=1, triton=0.001, slots=1)
    outcome = run([(0.0, "bulk", 1000), (0.0, "live", 400)], rules=fixed(bulk=1), speed=speed)
    assert outcome.last["live"] == pytest.approx(500, rel=0.02)  # every fifth that is begun is bulk


def test_nodes_are_paid_for_from_order_to_return():
    rules = changed(
        read_rules(), ["triton.max_replicas=1", "worker-bulk.max_replicas=1", "worker-live.max_replicas=0"]
    )
    times = Times(gpu_node=240, cpu_node=90, pod=10, triton=60, node_idle=600, seen_late=0)
    speed = Speed(worker=0.5, triton=0.5, slots=1)
    outcome = run([(1.0, "bulk", 1000)], rules=rules, speed=speed, times=times)
    # Seen by the poll at 15 s; Triton is up at 15 + 240 + 60, and the worker, which has waited for it, begins.
    assert outcome.last["bulk"] == pytest.approx(315 + 1000 * 1.0)
    assert outcome.dark == 0
    # The work ends at 1315 s. The last poll that saw work was at 1305 s, the last one with GPUs at work within
    # a minute at 1365 s. From then the cooldowns, 600 s and 300 s, and 600 s in which nodes stand empty.
    assert outcome.gpu_hours * 3600 == pytest.approx(1365 + 600 + 600 - 15)
    assert outcome.cpu_hours * 3600 == pytest.approx(1305 + 300 + 600 - 15)
    assert outcome.cost(NodePrices(gpu_node=2, cpu_node=1)) == pytest.approx(2550 / 1800 + 2190 / 3600)
    hasty = run([(1.0, "bulk", 1000)], rules=rules, speed=speed, times=times, workers_wait=False)
    assert hasty.dark == pytest.approx(315 - (15 + 90 + 10 + 0.5))
    assert hasty.last["bulk"] == pytest.approx(315 + 0.5 + 999 * 1.0)


def test_what_is_lost_or_scaled_away_is_done_all_the_same():
    rules = changed(read_rules(), ["worker-bulk.scale_down_after=15"])
    losses = [Loss(600.0 + 97 * n, "gpu" if n % 2 else "cpu") for n in range(20)]
    arrivals = [(0.0, "bulk", 30_000), *((30.0 * n, "live", 1) for n in range(200))]
    outcome = run(sorted(arrivals), rules=rules, speed=Speed(), times=Times(), losses=losses)
    assert outcome.finished == {"live": 200, "bulk": 30_000}
    assert len(outcome.waits["live"]) == 200
    undisturbed = run(sorted(arrivals), rules=rules, speed=Speed(), times=Times())
    assert outcome.last["bulk"] > undisturbed.last["bulk"]


def test_the_same_seed_gives_the_same_figures_and_another_one_others():
    options = Options(read_rules())
    first, again = (Simulation(morning_dump(1), options).run().figures(NodePrices()) for _ in range(2))
    assert first == again
    assert Simulation(morning_dump(2), options).run().figures(NodePrices()) != first


# Rules


def target(metric_type="AverageValue", threshold=10.0, least=0, most=20, **more):
    how = {"cooldown": 300.0, "scale_down_after": 60.0, **more}
    return Target("t", least, most, triggers=(Trigger("work", metric_type, threshold, 0.0),), **how)


def polled(scaler, *answers, ready=None, start=0.0):
    return [
        scaler.poll(start + 15 * n, {"work": answer}, scaler.replicas if ready is None else ready)
        for n, answer in enumerate(answers)
    ]


def test_from_zero_to_one_then_as_many_as_the_work_is_for():
    assert polled(Autoscaler(target()), 0, 55, 55) == [0, 1, 5]  # 1 + 4: no more than four at once, or doubling
    assert polled(Autoscaler(target()), 1000, 1000, 1000, 1000, 1000) == [1, 5, 10, 20, 20]


def test_a_tenth_more_or_less_changes_nothing():
    scaler = Autoscaler(target(least=10))
    assert polled(scaler, 109) == [10]
    assert polled(scaler, 111) == [12]


def test_down_only_when_fewer_were_enough_for_a_while():
    scaler = Autoscaler(target(least=1))
    assert polled(scaler, 100, 100, 100)[-1] == 10
    # Four polls for which 10 are still remembered; then half of them within a minute, and half of these.
    assert polled(scaler, *[20] * 9, start=45) == [10, 10, 10, 5, 5, 5, 5, 2, 2]


def test_to_zero_after_the_cooldown_and_never_from_an_answer_that_did_not_come():
    scaler = Autoscaler(target(cooldown=45.0))
    assert polled(scaler, 5, 0, 0, 0, 0) == [1, 1, 1, 0, 0]
    scaler = Autoscaler(target(cooldown=45.0))
    assert polled(scaler, 5, *[None] * 30) == [1] * 31
    assert polled(scaler, 0, start=1000) == [0]


def test_a_value_is_a_ratio_of_what_is_ready():
    scaler = Autoscaler(target("Value", 0.25, least=2, most=9))
    assert polled(scaler, 0.5, ready=2) == [4]
    assert polled(scaler, 10.0, ready=4) == [8]


# Options


def test_rules_are_changed_by_name():
    rules = changed(
        read_rules(), ["triton.min_replicas=2", "worker-live.cooldown=60", "triton.queue.threshold=0.5"]
    )
    assert (rules.targets["triton"].min_replicas, rules.targets["worker-live"].cooldown) == (2, 60)
    assert [t.threshold for t in rules.targets["triton"].triggers if t.name == "queue"] == [0.5]
    for wrong in ("triton.replicas=2", "nobody.cooldown=1", "triton.nothing.threshold=1"):
        with pytest.raises(ValueError, match=r"triton|nobody"):
            changed(read_rules(), [wrong])


def summary(runs):
    now = datetime.now(UTC)
    return BatchSummary(
        name="b",
        images=10,
        done=10,
        failed=0,
        reasons={},
        created=now,
        closed=now,
        stage_seconds=dict.fromkeys(runs, 0.1),
        stage_runs=runs,
        image_seconds=0.5,
        slots=1,
        software="0",
    )


def test_the_speed_of_a_batch_is_that_of_its_summary():
    ran = summary({Stage.SEGMENT: 10, Stage.CLASSIFY: 10})
    speed = measured(ran.model_dump_json().encode(), slots=2)
    assert (speed.triton, speed.worker, speed.slots) == (pytest.approx(0.2), pytest.approx(0.3), 2)
    with pytest.raises(ValueError, match="ran no stage"):
        measured(summary({}).model_dump_json().encode(), slots=2)


def test_work_that_can_never_be_done_is_said(monkeypatch):
    monkeypatch.setattr("benchmarks.scaling.simulation._TOO_LONG", 86_400.0)
    with pytest.raises(ValueError, match="not done"):
        run([(0.0, "bulk", 1)], rules=fixed(bulk=0), speed=Speed())
    rules = read_rules()
    alone = replace(rules, targets={"triton": rules.targets["triton"]})
    with pytest.raises(ValueError, match="the rules scale"):
        run([], rules=alone, speed=Speed())


@pytest.mark.parametrize("name", TRACES)
def test_traces_are_in_order_and_have_what_they_say(name):
    trace = TRACES[name](1)
    times = [arrival.time for arrival in trace.arrivals]
    assert times == sorted(times)
    assert times[0] >= 0
    images = sum(arrival.images for arrival in trace.arrivals)
    least = {"morning-dump": 3_400, "archive": 10_000_000, "node-losses": 1_000_000}[name]
    assert least <= images < 1.1 * least
    assert bool(trace.losses) == (name == "node-losses")
