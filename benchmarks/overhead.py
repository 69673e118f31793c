"""What queue and ledger cost: jobs/s with jobs that do nothing, compared with plain Celery with ``acks_late``.

Ours is the whole way of a job: the orchestrator reads the manifest and enqueues; a worker claims, makes a record,
finishes. Celery's is: ``send_task`` for each job; a worker makes the same record and acknowledges late. Records
stay in the memory of the worker processes on both sides. Real Valkey, real workers with as many processes; both
sides take turns, so that whatever else the machine does affects both, and the ratio is the median of the rounds'.

    python -m benchmarks.overhead [--jobs N] [--rounds N] [--slots N] [--prefetch N] [--warm-up N]
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from rich.console import Console
from rich.table import Table

from benchmarks import worker
from benchmarks.children import running
from benchmarks.killloop import work
from benchmarks.servers import redis_and_s3
from dermbatch import layout
from dermbatch.audit import NO_AUDIT, Audit
from dermbatch.ledger import Ledger
from dermbatch.records.asked import ImageJob
from dermbatch.records.outcome import ResultRecord
from dermbatch.settings import RedisSettings, Settings, StoreSettings, load
from dermbatch.store import ObjectStore
from orchestrator.stack.environment import base_environment, settings_environment
from orchestrator.stack.process import Part, python_module

TASK = "overhead.nothing"

console = Console(highlight=False)


class RunMarks:
    """A byte for each job in a file that all processes map: how often it was run."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), 0)

    def mark(self, index: int) -> None:
        """Count a run of a job."""
        self._bytes[index] = min(255, self._bytes[index] + 1)

    def clear(self) -> None:
        """Forget all runs."""
        self._bytes[:] = bytes(len(self._bytes))

    def count(self, jobs: int) -> int:
        """How many of the first ``jobs`` have run."""
        return jobs - self._bytes[:jobs].count(0)


class MemoryStore:
    """What a worker asks of the object store, kept in memory."""

    def __init__(self, settings: StoreSettings, audit: Audit = NO_AUDIT) -> None:
        self.bucket, self.audit = settings.bucket, audit
        self._objects: dict[str, bytes] = {}

    def put_if_absent(self, key: str, body: bytes, content_type: str) -> bool:
        return self._objects.setdefault(key, body) is body


def nothing(job: ImageJob, attempt: int, who: str) -> ResultRecord:
    """The record of a job that does nothing."""
    stage_key, key = "0" * 32, f"images/{'0' * 64}/purify/{'0' * 32}/purified.png"
    started = datetime.now(UTC)
    return work.record(job, stage_key, key, attempt=attempt, worker=who, started=started, seconds=0)


def our_worker(marks: Path) -> None:
    """Our worker, with its records in memory."""
    done = RunMarks(marks)

    def process(job: ImageJob, *, attempt: int, **_: Any) -> ResultRecord:
        made = nothing(job, attempt, str(os.getpid()))
        done.mark(job.index)
        return made

    worker.run(process, store=MemoryStore)


def celery_app(settings: RedisSettings, prefetch: int) -> Celery:
    """Plain Celery, ``acks_late``."""
    app = Celery("overhead", broker=settings.url)
    app.conf.update(task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=prefetch)
    app.conf.update(broker_connection_retry_on_startup=True)
    return app


def celery_worker(marks: Path, prefetch: int) -> None:
    """Celery's worker."""
    settings = load()
    worker.die_of_defects(tasks_too=True)
    app = celery_app(settings.redis, prefetch)
    done, records = RunMarks(marks), MemoryStore(settings.store)

    @app.task(name=TASK)
    def run(message: dict[str, Any]) -> None:
        job = ImageJob.model_validate(message)
        made = nothing(job, 1, str(os.getpid()))
        records.put_if_absent(f"{job.batch}/{job.index}", made.to_json(), "application/json")
        done.mark(job.index)

    slots = f"--concurrency={settings.worker.concurrency}"
    app.worker_main(
        ["worker", "--pool=prefork", slots, "--loglevel=WARNING", "--without-gossip", "--without-mingle"]
    )


class OverheadBench:
    """The servers, and one round of either side.

    Args:
        folder: For data and logs.
        jobs: Of a round.
        slots: Processes of a worker.
        prefetch: Celery's ``worker_prefetch_multiplier`` on its side.
        warm_up: Jobs before a round, at most as many as are in one.
    """

    def __init__(self, folder: Path, jobs: int, slots: int, prefetch: int, warm_up: int) -> None:
        self._folder, self._jobs, self._prefetch = folder, jobs, prefetch
        self._warm_up = min(warm_up, jobs)
        self._base = base_environment(os.environ)
        start = Settings()
        self.servers, queue_settings, store = redis_and_s3(folder, start.store)
        changes: dict[str, object] = {
            "redis": queue_settings,
            "store": store,
            "worker": start.worker.model_copy(update={"metrics_port": 0, "concurrency": slots}),
            "orchestrator": start.orchestrator.model_copy(update={"metrics_port": 0}),
            "log_level": "WARNING",
        }
        self._settings = start.model_copy(update=changes)

    def ours(self, number: int) -> float:
        """Jobs/s of one round."""
        ledger = Ledger(self._settings.redis, self._settings.ledger)
        store = ObjectStore(self._settings.store)
        with self._running("ours", python_module("orchestrator")) as marks:

            def run(name: str, jobs: int) -> float:
                batch = work.no_op_batch(name, jobs)
                work.submit(store, batch, work.entries(jobs))
                start = time.monotonic()
                ledger.batches.open(batch)
                # Finished for the ledger: that the store has no records is no part of this.
                wait(lambda: (state := ledger.batches.get(name)) is not None and state.finished)
                return time.monotonic() - start

            warm_up = f"warm-up-{number}"
            run(warm_up, self._warm_up)
            # Else it would be run again: to the orchestrator, what has no record in the store is not done.
            store.delete(layout.control(warm_up))
            ledger.batches.forget(warm_up)
            marks.clear()
            seconds = run(f"round-{number}", self._jobs)
            store.delete(layout.control(f"round-{number}"))
            if marks.count(self._jobs) != self._jobs:
                raise SystemExit("jobs are finished that were not run: the figures would mean nothing")
        return self._jobs / seconds

    def celery(self) -> float:
        """Jobs/s of one round."""
        app = celery_app(self._settings.redis, self._prefetch)
        with self._running("celery") as marks:

            def run(jobs: int) -> float:
                start = time.monotonic()
                with app.producer_pool.acquire() as producer:
                    for index in range(jobs):
                        message = work.job("round", index).model_dump(mode="json")
                        app.send_task(TASK, args=[message], producer=producer)
                wait(lambda: marks.count(jobs) == jobs)
                return time.monotonic() - start

            run(self._warm_up)
            marks.clear()
            seconds = run(self._jobs)
        app.close()
        return self._jobs / seconds

    @contextmanager
    def _running(self, side: str, *commands: Sequence[str]) -> Iterator[RunMarks]:
        """A worker of one side and what else it needs, on an empty Redis."""
        self._empty()
        path = self._folder / "marks"
        path.write_bytes(bytes(self._jobs))
        own = (f"--worker={side}", f"--marks={path}", f"--prefetch={self._prefetch}")
        program = python_module("benchmarks.overhead", *own)
        env = {**self._base, **settings_environment(self._settings)}
        parts = [
            Part(name=f"{side}-{n}", argv=argv, env=env, log=self._folder / f"{side}-{n}.log", probe=lambda: True)
            for n, argv in enumerate((program, *commands))
        ]
        with running(*parts):
            yield RunMarks(path)

    def _empty(self) -> None:
        with redis.Redis.from_url(self._settings.redis.url) as client:
            client.flushall()


def wait(condition: Callable[[], bool], seconds: float = 300) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the jobs did not end: the figures would mean nothing")
        time.sleep(0.01)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--prefetch", type=int, default=4, help="Celery's own default")
    parser.add_argument("--warm-up", type=int, default=200, help="jobs before each round")
    parser.add_argument("--worker", choices=("ours", "celery"), help=argparse.SUPPRESS)
    parser.add_argument("--marks", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker == "ours":
        our_worker(options.marks)
    elif options.worker == "celery":
        celery_worker(options.marks, options.prefetch)
    else:
        measure(options)


def measure(options: argparse.Namespace) -> None:
    """All rounds, then the table."""
    rates: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="dermbatch-overhead-") as folder:
        bench = OverheadBench(Path(folder), options.jobs, options.slots, options.prefetch, options.warm_up)
        with running(*bench.servers):
            for number in range(options.rounds):
                rates.append((bench.ours(number), bench.celery()))
    table = Table("round", "dermbatch, jobs/s", "Celery acks_late, jobs/s", "ratio")
    for number, (ours, celery) in enumerate(rates):
        table.add_row(str(number), f"{ours:.0f}", f"{celery:.0f}", f"{ours / celery:.2f}")
    console.print(table)
    figures = {
        "jobs": options.jobs,
        "slots": options.slots,
        "prefetch": options.prefetch,
        "dermbatch": round(statistics.median(ours for ours, _ in rates), 1),
        "celery": round(statistics.median(celery for _, celery in rates), 1),
        "ratio": round(statistics.median(ours / celery for ours, celery in rates), 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
