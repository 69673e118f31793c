"""Which messages a real worker takes while both lanes have some, and how it takes them."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from celery import Celery

from dermbatch.ledger.queue import QUEUES, TASK, celery_config
from dermbatch.settings import LedgerSettings, Settings, WorkerSettings
from orchestrator.stack.environment import settings_environment
from tests.waiting import patience, wait_for

TAKEN = "tests:taken"


def put(redis_settings, lane, count, queue=None):
    with Celery("tests") as app:
        app.conf.update(celery_config(redis_settings))
        for _ in range(count):
            app.send_task(TASK, args=[{"lane": lane}], queue=queue or QUEUES[lane], ignore_result=True)


@contextmanager
def working(redis_settings, **settings):
    """A worker of one slot."""
    path = os.pathsep.join(filter(None, sys.path))
    env = {
        **os.environ,
        "PYTHONPATH": path,
        **settings_environment(Settings(redis=redis_settings, **settings)),
    }
    worker = subprocess.Popen([sys.executable, str(Path(__file__).with_name("noting_worker.py"))], env=env)
    try:
        yield worker
    finally:
        worker.terminate()
        worker.wait(20)


def wait_taken(client, worker, count):
    wait_for(lambda: worker.poll() is not None or client.llen(TAKEN) >= count, 60, lambda: client.llen(TAKEN))
    assert worker.poll() is None


def taken(redis_settings, count, **settings):
    """Lanes of the first ``count`` messages, in the order in which a worker with one slot takes them."""
    with redis.Redis.from_url(redis_settings.url, decode_responses=True) as client:
        with working(redis_settings, **settings) as worker:
            wait_taken(client, worker, count)
        return [json.loads(entry)["lane"] for entry in client.lrange(TAKEN, 0, count - 1)]


@pytest.mark.parametrize("share", [0.2, 0.3])
def test_bulk_gets_its_share_while_live_waits(empty_redis, share):
    put(empty_redis, "bulk", 50)
    put(empty_redis, "live", 200)
    order = taken(empty_redis, 250, ledger=LedgerSettings(bulk_share=share))
    assert (order.count("live"), order.count("bulk")) == (200, 50)
    both_wait = order[: int(50 / share) - 5]
    # A message or two that the worker took before the first one ran may be out of turn.
    assert abs(both_wait.count("bulk") - share * len(both_wait)) <= 2
    assert order[0] == "live"


def test_a_worker_of_the_live_lane_leaves_bulk_alone(empty_redis):
    put(empty_redis, "bulk", 5)
    put(empty_redis, "live", 20)
    assert taken(empty_redis, 20, worker=WorkerSettings(lanes=("live",))) == ["live"] * 20
    with redis.Redis.from_url(empty_redis.url) as client:
        assert client.llen(QUEUES["bulk"]) == 5
        assert client.llen(TAKEN) == 20


def test_a_worker_outlives_a_full_redis_and_notes_no_messages(empty_redis):
    with redis.Redis.from_url(empty_redis.url, decode_responses=True) as client, working(empty_redis) as worker:
        put(empty_redis, "bulk", 3)
        wait_taken(client, worker, 3)
        put(empty_redis, "bulk", 2)
        wait_taken(client, worker, 5)
        put(empty_redis, "bulk", 4, queue="tests:kept")
        client.config_set("maxmemory", "1")
        try:
            client.rename("tests:kept", QUEUES["bulk"])
            until = time.monotonic() + patience(20)
            while client.llen(QUEUES["bulk"]):
                assert worker.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
        finally:
            client.config_set("maxmemory", "0")
        put(empty_redis, "bulk", 1)
        wait_taken(client, worker, 6)
        assert client.keys("unacked*") == []
