"""What autoscaling asks of Prometheus, in every state of the work: real Redis and Prometheus, shipped rules."""

import os

import pytest
from orchestra import Orchestra
from prometheus_client import CollectorRegistry, start_http_server

from dermbatch.records.asked import BatchControl
from orchestrator.dispatch.ledger_metrics import LedgerMetrics
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.servers.redis import redis_part
from tests.prometheus_server import expressions, prometheus


@pytest.fixture
def redis_of_ours(tmp_path):
    """A Redis that may be stopped."""
    folder = tmp_path / "redis"
    part, settings = redis_part(folder, tmp_path / "redis.log", free_ports(1)[0], base_environment(os.environ))
    part.start()
    part.wait()
    yield part, settings
    part.stop()


def answers(server):
    """The answer to each trigger of scaling, by its name."""
    asked = {name: expr for name, expr in expressions().items() if name.startswith(("worker-", "triton-"))}
    return {name: server.query(expr) for name, expr in asked.items()}


def answer(live, bulk, *, triton=None):
    """What the triggers are to answer; ``triton``: its queues' and GPUs' figures, which no server gives here."""
    return {
        "worker-live-work": live,
        "worker-bulk-work": live + bulk,
        "triton-needed": min(1, live + bulk),
        "triton-queue": triton,
        "triton-gpu": triton,
    }


def test_the_queries_of_scaling_count_the_work_in_every_state(redis_of_ours, empty_store, tmp_path):
    part, settings = redis_of_ours
    orchestra = Orchestra(settings, empty_store)
    registry = CollectorRegistry()
    registry.register(LedgerMetrics(orchestra.ledger))
    ports = free_ports(2)  # two orchestrators that say the same: what they say is not added up
    exporters = [start_http_server(port, "127.0.0.1", registry) for port in ports]
    try:
        with prometheus(tmp_path, {"dermbatch-orchestrator": ports}) as server:
            server.wait(lambda server: server.query("count(dermbatch_worker_slots)") == 2)
            walk_through_the_states(orchestra, server)
            part.stop()  # nobody can tell: no answer, and not a zero that would take workers away
            server.wait(lambda server: set(answers(server).values()) == {None})
    finally:
        orchestra.end()
        for exporter, thread in exporters:
            exporter.shutdown()
            exporter.server_close()
            thread.join()


def walk_through_the_states(orchestra, server):
    """Idle, planned, queued, running, waiting, paused, finished."""

    def says(expected):
        server.wait(lambda server: answers(server) == expected)

    says(answer(0, 0, triton=0))
    orchestra.plan(40)
    says(answer(0, 40))  # nothing is queued yet, and nobody is there to take it
    orchestra.dispatcher.feed()
    orchestra.plan(5, name="urgent", lane="live")
    orchestra.dispatcher.feed()
    says(answer(5, 40))

    urgent = orchestra.take("live")
    claims = [orchestra.claim(job) for job in urgent]
    assert orchestra.ledger.snapshot().queued["live"] == 0
    says(answer(5, 40))  # an empty queue, and five images that run
    orchestra.ledger.images.postpone(claims[0], 60)
    says(answer(5, 40))  # it will be back
    for claim in claims[1:]:
        orchestra.ledger.images.finish(claim.job, claim.owner, "done")
    says(answer(1, 40))

    running = [orchestra.claim(job) for job in orchestra.take()]
    assert 0 < len(running) < 40
    paused = BatchControl(lane="bulk", weight=1, state="paused", why="by hand")
    assert orchestra.ledger.batches.steer("b", paused)
    says(answer(1, len(running)))  # what runs is finished; the rest needs nobody for now
    for claim in running:
        orchestra.ledger.images.finish(claim.job, claim.owner, "done")
    says(answer(1, 0))
    assert orchestra.ledger.batches.steer("b", BatchControl(lane="bulk", weight=1, state="open"))
    says(answer(1, 40 - len(running)))

    for name in ("b", "urgent"):
        orchestra.ledger.images.drop(name)
        orchestra.ledger.batches.forget(name)
    says(answer(0, 0, triton=0))
