"""The rivals' sides: a Celery chain, Ray Data, and a bare pool of processes as the limit of it all."""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_process_init

from benchmarks.children import Watch, running, spawned
from benchmarks.comparison.meter import Meter
from benchmarks.comparison.work import PREFIX, Given, Work
from benchmarks.servers import redis_and_s3
from dermbatch.settings import RedisSettings
from dermbatch.store import ObjectStore
from orchestrator.stack.environment import base_environment
from orchestrator.stack.process import Part, python_module

TASK = "comparison.process"
_WARM = "warm/"


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def celery_app(url: str) -> Celery:
    """A sober Celery: late acknowledgement, one task a process, results in Redis."""
    app = Celery("comparison", broker=url, backend=url)
    app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)
    return app


def celery_worker(given: Path, url: str) -> None:
    """Run a worker with a process a processor, each with its own models."""
    told, app = Given.read(given), celery_app(url)
    have: dict[str, Any] = {}

    @worker_process_init.connect(weak=False)
    def load(**_: object) -> None:
        have.update(work=Work(told), store=ObjectStore(told.settings.store))

    @app.task(name=TASK)
    def process(key: str) -> None:
        have["work"].process(have["store"], key)

    app.worker_main(
        ["worker", "--pool=prefork", f"--concurrency={cores()}", "--loglevel=WARNING", "--without-gossip"]
    )


@contextmanager
def servers(given: Given, folder: Path) -> Iterator[tuple[Given, RedisSettings, dict[str, Part], Watch]]:
    """The stack's own Valkey and object store, without the rest."""
    (redis, s3), broker, store = redis_and_s3(folder, given.settings.store)
    told = Given(given.settings.model_copy(update={"store": store}), given.repository)
    with running(redis, s3) as watch:
        made = ObjectStore(store)
        for bucket in (made.bucket, made.incoming_bucket):
            made.create_bucket(bucket)
        yield told, broker, {"redis": redis, "s3": s3}, watch


def put(store: ObjectStore, prefix: str, paths: Sequence[Path]) -> list[str]:
    """Put images into the store; their keys."""
    keys = [f"{prefix}{number:05}-{path.name}" for number, path in enumerate(paths)]
    for key, path in zip(keys, paths, strict=True):
        store.put(key, path.read_bytes(), "application/octet-stream", bucket=store.incoming_bucket)
    return keys


def chain(paths: Sequence[Path], given: Given, folder: Path) -> Meter:
    """The chain from the first image put into the store to the last record written; warmed up before."""
    with servers(given, folder) as (told, broker, parts, watch):
        file = told.write(folder / "given")
        worker = Part(
            name="celery",
            argv=[*python_module("benchmarks.comparison"), "--celery", str(file), broker.url],
            env=base_environment(os.environ),
            log=folder / "celery.log",
            probe=lambda: True,
            cwd=Path.cwd(),
        )
        with running(worker):
            store, app = ObjectStore(told.settings.store), celery_app(broker.url)
            wait_for(app, put(store, _WARM, list(paths[:1]) * cores() * 2))
            families = {name: part.pid or 0 for name, part in {**parts, "celery": worker}.items()}
            with Meter(families) as meter:
                wait_for(app, put(store, PREFIX, paths))
            watch.check()
    return meter


def wait_for(app: Celery, keys: Sequence[str]) -> None:
    """Send a task a key, and wait for all; raises what a task raised."""
    for result in [app.send_task(TASK, (key,)) for key in keys]:
        result.get(timeout=600, interval=0.05)


def limit(paths: Sequence[Path], given: Given, folder: Path) -> float:
    """Images/s of bare loops over arrays that lie decoded in memory: all stages, no file is read or written."""
    context = multiprocessing.get_context("spawn")
    barrier, times = context.Barrier(cores()), context.Queue()
    file = given.write(folder / "given")
    dealt = sorted(paths, key=lambda path: path.stat().st_size, reverse=True)  # large ones are spread evenly
    with Watch() as watch:
        shared = context.Queue()
        for number in range(len(dealt)):
            shared.put(number)
        for number in range(cores()):
            watch.add(spawned(f"limit-{number}", folder / "limit.log", _loop, file, dealt, shared, barrier, times))
        spans = [times.get() for _ in range(cores())]
    return float(len(paths) / (max(end for _, end in spans) - min(start for start, _ in spans)))


def _loop(file: Path, paths: Sequence[Path], shared: Any, barrier: Barrier, times: Any) -> None:
    work = Work(Given.read(file))
    pictures = [work.decoded(path.read_bytes()) for path in paths]
    work.made(work.decoded(paths[-1].read_bytes()))
    barrier.wait()
    start = time.monotonic()
    while (number := _next(shared)) is not None:
        work.made(pictures[number])
    times.put((start, time.monotonic()))


def _next(shared: Any) -> int | None:
    with suppress(queue.Empty):
        number: int = shared.get(timeout=0.1)
        return number
    return None


def ray(paths: Sequence[Path], given: Given, folder: Path, python: Path) -> Mapping[str, Any]:
    """Ray Data with fused actors, in the environment that has it; its own figures."""
    with servers(given, folder) as (told, _, _, _):
        file = told.write(folder / "given")
        keys = put(ObjectStore(told.settings.store), PREFIX, paths)
        ended = subprocess.run(
            [python, "-P", "-m", "benchmarks.comparison.ray_data", file],
            input=json.dumps(keys),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path.cwd()), "RAY_DEDUP_LOGS": "0"},
            check=False,
        )
        if ended.returncode:
            sys.exit(f"Ray Data ended with {ended.returncode}:\n{ended.stderr[-3000:]}")
    found: Mapping[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found
