"""The end of real worker processes: what was begun is finished or given back, and nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from messages import job_of, messages_of

from dermbatch import layout
from dermbatch.errors import ObjectNotFound
from dermbatch.ledger import Ledger
from dermbatch.records.outcome import ResultRecord
from dermbatch.settings import LedgerSettings, Settings, WorkerSettings
from dermbatch.store import ObjectStore
from orchestrator.stack.environment import settings_environment
from tests.waiting import allowed, wait_for
from workers.process.shutdown import give_back

LEDGER = LedgerSettings(lease=60, heartbeat=0.5, queued_look=60)  # nothing comes back unasked within a test
GRACE = 4.0
LONG = 50.0  # a grace that nothing waits out: longer than a slow machine needs, shorter than the images sleep
MORE = 60.0  # seconds beyond its grace in which a worker is gone on the slowest machine

UNSIGNED = "messages are not signed"


class Worker:
    """A worker process and the ledger that it works on."""

    def __init__(self, redis_settings, store_settings, log, grace=GRACE):
        self.settings = Settings(
            redis=redis_settings,
            store=store_settings,
            ledger=LEDGER,
            worker=WorkerSettings(concurrency=3, grace=grace, metrics_port=0),
        )
        self.ledger = Ledger(redis_settings, LEDGER)
        self.store = ObjectStore(store_settings)
        self.log = log
        path = os.pathsep.join(filter(None, sys.path))
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("sleeping_worker.py"))],
                env={**os.environ, "PYTHONPATH": path, **settings_environment(self.settings)},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def enqueue(self, *names):
        jobs = [job_of(index, name) for index, name in enumerate(names)]
        assert self.ledger.images.enqueue(messages_of(jobs, self.settings.redis)) == len(jobs)

    def wait_until(self, what, seconds=30.0):
        def there():
            ended = self.process.poll() is not None
            return what() or (ended and pytest.fail(self.log.read_text()))

        wait_for(there, seconds, self.log.read_text)

    def ends(self, within):
        """Its exit code, the seconds that it took, and what it says became of its images."""
        begin = time.monotonic()
        pool = psutil.Process(self.process.pid).children(recursive=True)
        code = self.process.wait(within)
        took = time.monotonic() - begin
        assert not psutil.wait_procs(pool, timeout=allowed(2))[1]
        lines = [line for line in self.log.read_text().splitlines() if "worker ended" in line]
        report = json.loads(lines[-1])
        return code, took, (report["finished"], report["given_back"])

    def outcomes(self):
        """Indices that the ledger holds to be finished, and those that have a result."""
        indices = range(10)
        return (
            {index for index in indices if self.ledger.batches.is_finished("b", index)},
            {index for index in indices if self._has_result(index)},
        )

    def due(self):
        """How many images another worker gets at once."""
        return len(self.ledger.images.requeue("o", 100))

    def _has_result(self, index):
        try:
            record = self.store.get(self.store.bucket, layout.result("b", index))
        except ObjectNotFound:
            return False
        return ResultRecord.model_validate_json(record).index == index


@pytest.fixture
def grace():
    return GRACE


@pytest.fixture
def worker(empty_redis, empty_store, tmp_path, grace):
    worker = Worker(empty_redis, empty_store, tmp_path / "worker.log", grace)
    try:
        worker.wait_until(lambda: worker.ledger.slots.live() == 3)
        yield worker
    finally:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()
    assert UNSIGNED not in worker.log.read_text()


def test_short_images_are_finished_and_long_ones_given_back_before_it_is_gone(worker):
    worker.enqueue("sleep 1.5", "sleep 60", "stubborn 60", "sleep 0.1", "sleep 0.1")
    worker.wait_until(lambda: worker.ledger.snapshot().states["running"] == 3)
    worker.process.send_signal(signal.SIGTERM)
    worker.wait_until(lambda: worker.ledger.snapshot().states["waiting"] == 2)
    # Before the process is gone: whoever looks after the ledger has them in the queue at once.
    assert worker.process.poll() is None
    code, _, report = worker.ends(GRACE + MORE)
    assert code == 0, worker.log.read_text()
    assert worker.outcomes() == ({0}, {0})
    assert report == (1, 2)
    assert worker.ledger.snapshot().states == {"queued": 2, "running": 0, "waiting": 2, "poison": 0}
    assert worker.due() == 2
    assert worker.ledger.slots.live() == 0


def test_another_worker_finishes_what_was_given_back(worker, empty_redis, empty_store, tmp_path):
    worker.enqueue("sleep 0.5", "sleep 4", "sleep 4")
    worker.wait_until(lambda: worker.ledger.snapshot().states["running"] == 3)
    worker.process.send_signal(signal.SIGTERM)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.ends(GRACE + MORE)[0] == 0
    other = Worker(empty_redis, empty_store, tmp_path / "other.log")
    try:
        worker.ledger.images.requeue("o", 100)
        other.wait_until(lambda: worker.ledger.images.in_flight() == 0)
    finally:
        other.process.terminate()
        other.process.wait(20)
    assert worker.outcomes() == ({0, 1, 2}, {0, 1, 2})


@pytest.mark.parametrize("grace", [LONG])
@pytest.mark.parametrize("numbers", [[signal.SIGTERM, signal.SIGTERM], [signal.SIGQUIT], [signal.SIGINT] * 2])
def test_asked_twice_or_hard_it_gives_back_at_once(worker, grace, numbers):
    worker.enqueue("sleep 60", "stubborn 60", "sleep 60")
    worker.wait_until(lambda: worker.ledger.snapshot().states["running"] == 3)
    for number in numbers:
        worker.process.send_signal(number)
        time.sleep(0.3)
    code, took, report = worker.ends(GRACE + MORE)
    assert code == 0, worker.log.read_text()
    assert took < grace
    assert report == (0, 3)
    assert worker.ledger.snapshot().states["waiting"] == 3


@pytest.mark.parametrize("grace", [LONG])
def test_an_idle_worker_ends_without_waiting_for_its_grace(worker, grace):
    worker.process.send_signal(signal.SIGTERM)
    code, took, report = worker.ends(GRACE + MORE)
    assert (code, report) == (0, (0, 0))
    assert took < grace


def test_without_a_key_images_are_done_all_the_same_and_the_log_says_so_once(empty_redis, empty_store, tmp_path):
    """The one test of messages that are not signed."""
    unsigned = empty_redis.model_copy(update={"signing_key": None})
    worker = Worker(unsigned, empty_store, tmp_path / "worker.log")
    try:
        worker.enqueue("sleep 0.1", "sleep 0.1")
        worker.wait_until(lambda: worker.outcomes() == ({0, 1}, {0, 1}))
        worker.process.send_signal(signal.SIGTERM)
        assert worker.ends(GRACE + MORE)[0] == 0
    finally:
        worker.process.kill()
        worker.process.wait()
    assert worker.log.read_text().count(UNSIGNED) == 1


def test_messages_that_nobody_began_are_made_due(empty_redis):
    ledger = Ledger(empty_redis, LEDGER)
    jobs = [job_of(index) for index in range(3)]
    messages = messages_of(jobs, empty_redis)
    ledger.images.enqueue(messages)
    ledger.images.claim(jobs[1], "begun after all")
    with ledger.images._redis as client:
        client.delete(messages[0].queue)  # the worker took all three

    class Taken:
        def __init__(self, job):
            self.args = [job.model_dump(mode="json")]

    assert give_back(ledger, map(Taken, jobs)) == 2
    assert len(ledger.images.requeue("o", 100)) == 2
    assert ledger.snapshot().queued["bulk"] == 2
