"""Orchestrators as processes: one leads, another takes its place."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from messages import job_of

from dermbatch import layout
from dermbatch.records.asked import BatchSummary
from dermbatch.settings import LedgerSettings, OrchestratorSettings, Settings
from orchestrator.stack.environment import settings_environment
from orchestrator.stack.ports import free_ports
from tests.waiting import allowed, wait_for

LEASE = 1.5
LEDGER = LedgerSettings(leader_lease=LEASE, queued_look=30)

UNSIGNED = "messages are not signed"


class Process:
    """``python -m orchestrator`` on the servers of an orchestra."""

    def __init__(self, redis_settings, store_settings, log):
        (self.port,) = free_ports(1)
        self.log = log
        settings = Settings(
            redis=redis_settings,
            store=store_settings,
            ledger=LEDGER,
            orchestrator=OrchestratorSettings(
                metrics_port=self.port, metrics_address="127.0.0.1", tick=0.1, look_for_batches=1
            ),
        )
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator"],
                env={**os.environ, **settings_environment(settings)},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def leads(self):
        """Whether its metrics say so."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
                return "dermbatch_leader 1.0" in answer.read().decode()
        except urllib.error.URLError:
            return False

    def end(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def start(empty_redis, empty_store, tmp_path):
    started = []

    def start():
        started.append(Process(empty_redis, empty_store, tmp_path / f"{len(started)}.log"))
        return started[-1]

    yield start
    for process in started:
        process.end(signal.SIGKILL)
        assert "Traceback" not in process.log.read_text()
        assert UNSIGNED not in process.log.read_text()


@pytest.fixture
def pair(start):
    """The leader and the one that waits for its place."""
    first = start()
    wait_for(first.leads)
    second = start()
    wait_for(lambda: "orchestrator ready" in second.log.read_text())
    time.sleep(0.5)
    assert (first.leads(), second.leads()) == (True, False)
    return first, second


def closed(orchestra, name="b"):
    body = orchestra.key(layout.summary(name))
    return body and BatchSummary.model_validate_json(body)


def work_until(orchestra, condition):
    """Finish what comes into the queue until something is true; the members that were finished."""
    seen = []

    def look():
        jobs = orchestra.take()
        seen.extend(job.member for job in jobs)
        orchestra.done(*jobs)
        return condition(seen)

    wait_for(look, 60)
    return seen


def test_without_a_key_the_log_says_so_once(empty_redis, empty_store, tmp_path):
    unsigned = empty_redis.model_copy(update={"signing_key": None})
    process = Process(unsigned, empty_store, tmp_path / "unsigned.log")
    wait_for(process.leads)
    assert process.end() == 0
    assert process.log.read_text().count(UNSIGNED) == 1


def test_where_the_leader_is_killed_the_other_finishes_its_batch(orchestra, pair):
    first, second = pair
    orchestra.plan(120)
    seen = work_until(orchestra, lambda seen: len(seen) > 20)
    first.end(signal.SIGKILL)
    killed = time.monotonic()
    wait_for(second.leads)
    assert time.monotonic() - killed < LEASE + allowed(5)
    seen += work_until(orchestra, lambda _: closed(orchestra))
    assert sorted(seen) == sorted(job_of(index).member for index in range(120))
    assert closed(orchestra).done == 120
    assert "takes the lead" in second.log.read_text()


def test_a_leader_that_is_told_to_end_hands_over_at_once(start, empty_redis, empty_store, orchestra, tmp_path):
    first = start()
    wait_for(first.leads)
    first.end()
    assert orchestra.client.get("dermbatch:leader") is None
    assert first.process.returncode == 0


def test_after_a_flush_the_leader_restores_the_batch_by_itself(orchestra, start):
    process = start()
    wait_for(process.leads)
    orchestra.plan(60)
    seen = work_until(orchestra, lambda seen: len(seen) > 20)
    orchestra.client.flushall()
    seen += work_until(orchestra, lambda _: closed(orchestra))
    assert set(seen) == {job_of(index).member for index in range(60)}
    assert closed(orchestra).done == 60


def test_a_full_redis_is_waited_out(orchestra, start):
    process = start()
    wait_for(process.leads)
    orchestra.plan(60)
    seen = work_until(orchestra, lambda seen: len(seen) > 10)
    orchestra.client.config_set("maxmemory", 1)
    try:
        wait_for(lambda: (orchestra.done(*orchestra.take()), "ledger_full" in process.log.read_text())[1])
    finally:
        orchestra.client.config_set("maxmemory", 0)
    work_until(orchestra, lambda _: closed(orchestra))
    assert seen
    assert closed(orchestra).done == 60


def test_settings_that_cannot_be_end_it_with_one_sentence():
    ended = subprocess.run(
        [sys.executable, "-m", "orchestrator"],
        env={**os.environ, "DERMBATCH_LEDGER__LEASE": "soon"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "DERMBATCH_LEDGER__LEASE" in ended.stderr
    assert "Traceback" not in ended.stderr
