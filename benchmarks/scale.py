"""A large batch through the real ledger, without its pictures: how fast, whether it stays so, and in what memory.

Real Valkey, the real dispatcher and closer in a process of their own, and processes that are the workers: each
takes messages, claims, and finishes with a signed row as large as real ones. There are no stages, no Celery and no
object store: a stand-in makes manifest and records when they are read, lists every record, and keeps of the
table's parts what is counted of them. So what is measured is what an archive costs Redis and the orchestrator.

    python -m benchmarks.scale [--images N] [--workers N] [--embedding N] [--shards N]

Of several shards, each is a Valkey, an orchestrator and workers of their own, with its part of the images.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis
from celery import Celery
from rich.console import Console
from rich.table import Table

from benchmarks.children import Watch, running, spawned
from benchmarks.killloop import work
from dermbatch import layout
from dermbatch.audit import NO_AUDIT
from dermbatch.errors import ObjectNotFound
from dermbatch.ledger import Claim, Ledger
from dermbatch.ledger.queue import QUEUES, celery_config
from dermbatch.records.asked import Batch, ManifestEntry
from dermbatch.records.row import row_of, sealed, sent
from dermbatch.settings import LedgerSettings, RedisSettings
from dermbatch.store import ObjectInfo
from orchestrator.dispatch.closer import Closer
from orchestrator.dispatch.dispatcher import Dispatcher
from orchestrator.dispatch.messages import Messages, job_of
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.servers.redis import redis_part
from tests.outcome_samples import result_of

BATCH = "scale"
_MIB = 1024 * 1024
_VARIANTS = 64
_TICK = 0.05
_REPORTS = 20  # lines of progress in all
_THEN = datetime(2026, 1, 1, tzinfo=UTC)

console = Console(highlight=False, width=120)


class ResultsBucket:
    """What orchestrator and closer ask of the object store, of a batch of which every image has its record."""

    bucket = "simulated"
    audit = NO_AUDIT

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._kept: dict[str, bytes] = {}
        self.written = 0

    def get(self, bucket: str, key: str, **_: object) -> bytes:
        """An object."""
        name = self._batch.name
        folder, _, file = key.rpartition("/")
        if key == layout.batch_record(name):
            return self._batch.to_json()
        if folder == f"batches/{name}/manifest":
            return self._manifest(int(file.partition(".")[0]) * layout.PART_SIZE)
        if folder.startswith(f"batches/{name}/results/"):
            index = int(folder.rpartition("/")[2]) * layout.PART_SIZE + int(file.partition(".")[0])
            return result_of(name, index, preview=b"").to_json()
        if key not in self._kept:
            raise ObjectNotFound(f"no such object: {key}")
        return self._kept[key]

    def list(self, bucket: str, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Every record; else what was written."""
        if prefix == f"batches/{self._batch.name}/results/":
            first = int(start_after.removeprefix(prefix).rstrip("/") or 0)
            for start in range(first * layout.PART_SIZE, self._batch.images, layout.PART_SIZE):
                part = range(start, min(start + layout.PART_SIZE, self._batch.images))
                for key in sorted(layout.result(self._batch.name, index) for index in part):
                    yield ObjectInfo(key, 40_000, None, _THEN)
        for key in [key for key in self._kept if key.startswith(prefix)]:
            yield ObjectInfo(key, len(self._kept[key]), None, _THEN)

    def put(self, key: str, body: bytes, content_type: str, **_: object) -> None:
        """Keep an object; of a part of a table that stays one, only that it is there."""
        self.written += len(body)
        is_part = key.startswith(layout.table_parts(self._batch.name)) and key.endswith(".parquet")
        self._kept[key] = b"" if is_part else body

    def delete(self, key: str, **_: object) -> None:
        """Delete an object."""
        self._kept.pop(key, None)

    def delete_prefix(self, bucket: str, prefix: str) -> None:
        """Delete all below."""
        for key in [key for key in self._kept if key.startswith(prefix)]:
            del self._kept[key]

    def _manifest(self, start: int) -> bytes:
        lines = (
            ManifestEntry(index=index, name=f"image-{index}", source=f"s3://archive/{index}", size=1_000_000)
            for index in range(start, min(start + layout.PART_SIZE, self._batch.images))
        )
        return b"".join(line.to_json() + b"\n" for line in lines)


def orchestrate(settings: RedisSettings, batch: Batch) -> None:
    """An orchestrator's loop, until the batch is closed."""
    ledger, store = Ledger(settings, LedgerSettings()), ResultsBucket(batch)
    app = Celery("scale")
    app.conf.update(celery_config(settings))
    messages = Messages(app, settings.signing_key)
    dispatcher = Dispatcher(store, ledger, messages, LedgerSettings(), "bench")  # type: ignore[arg-type]
    closer = Closer(store, ledger, 4, settings.signing_key)  # type: ignore[arg-type]
    while ledger.batches.get(batch.name) is not None:
        dispatcher.repair()
        closer.look()
        dispatcher.feed()
        ledger.slots.sleep(_TICK)
    closer.stop()


def work_off(settings: RedisSettings, name: str, number: int, embedding: int) -> None:
    """A worker without stages; it never ends unasked."""
    ledger = Ledger(settings, LedgerSettings())
    client = redis.Redis.from_url(settings.url, decode_responses=True)
    vectors = np.random.default_rng(number).random((_VARIANTS, embedding), np.float32)
    ends = [sent(row_of(result_of(name, 0, vector=vector, preview=b""))).partition(",")[2] for vector in vectors]
    reported = 0.0
    while True:
        if time.monotonic() - reported > 1:
            ledger.slots.report(f"slot-{number}")
            reported = time.monotonic()
        taken: Any = client.brpop([QUEUES["bulk"]], timeout=1)
        if taken is None:
            continue
        job = job_of(taken[1], settings.signing_key)
        claim = ledger.images.claim(job, f"slot-{number}")
        if isinstance(claim, Claim):
            row = f'{{"index":{job.index},{ends[job.index % _VARIANTS]}'
            ledger.images.finish(job, claim.owner, "done", row=sealed(row, job.batch, settings.signing_key))


@dataclass
class Shard:
    """A Valkey with its orchestrator and workers.

    Attributes:
        name: Of its batch.
        ledger: Its own.
        images: Of its batch.
        finished: When all had their outcome, by the monotonic clock.
        closed: When its batch was, by the monotonic clock.
    """

    name: str
    ledger: Ledger
    images: int
    finished: float = 0.0
    closed: float = 0.0

    def done(self) -> int:
        """Images with an outcome."""
        state = self.ledger.batches.get(self.name) if not self.closed else None
        now = time.monotonic()
        if state is None:
            self.closed = self.closed or now
            self.finished = self.finished or now
            return self.images
        if state.done >= self.images:
            self.finished = self.finished or now
        return state.done


@dataclass(frozen=True)
class ProgressPoint:
    """How it stood at one moment: outcomes, and seconds of CPU by kind of process."""

    at: float
    done: int
    cpu: dict[str, float]


@dataclass
class Course:
    """How it went.

    Attributes:
        seen: Moment by moment.
        most, now: Bytes of the largest process of a kind, at most and now.
    """

    seen: list[ProgressPoint] = field(default_factory=list)
    most: dict[str, int] = field(default_factory=dict)
    now: Counter[str] = field(default_factory=Counter)

    def note(self, shards: list[Shard]) -> None:
        """Take down how it stands."""
        done, cpu = sum(shard.done() for shard in shards), dict.fromkeys(("redis", "orchestrator", "worker"), 0.0)
        self.now.clear()
        for kind, process in processes():
            with suppress(psutil.Error):
                cpu[kind] += sum(process.cpu_times()[:2])
                self.now[kind] = max(self.now[kind], process.memory_info().rss)
                self.most[kind] = max(self.most.get(kind, 0), self.now[kind])
        self.seen.append(ProgressPoint(time.monotonic(), done, cpu))

    def say(self, images: int) -> None:
        """Say how the last twentieth of so many images went, where one has just ended."""
        start, end = (self.seen[at].done * _REPORTS // images for at in (-2, -1)) if len(self.seen) > 1 else (0, 0)
        if end > start:
            rate, cpu = self.between((self.seen[-1].done - images / _REPORTS) / self.seen[-1].done, 1)
            each = ", ".join(f"{kind} {us:.0f} us {self.now[kind] / _MIB:.0f} MiB" for kind, us in cpu.items())
            console.print(f"{self.seen[-1].done:>11,}: {rate:,.0f} images/s; {each}")

    def between(self, first: float, last: float) -> tuple[float, dict[str, float]]:
        """Images/s between two shares of all images, and microseconds of CPU an image by kind of process."""
        start, end = (self._at(share * self.seen[-1].done) for share in (first, last))
        images = max(1, end.done - start.done)
        cpu = {kind: 1e6 * (end.cpu[kind] - start.cpu[kind]) / images for kind in end.cpu}
        return images / max(1e-9, end.at - start.at), cpu

    def _at(self, images: float) -> ProgressPoint:
        return next((one for one in self.seen if one.done >= images), self.seen[-1])


def processes() -> Iterator[tuple[str, psutil.Process]]:
    """The processes that are measured, by kind."""
    kinds = {child.pid: child.name.partition("-")[0] for child in multiprocessing.active_children()}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            kind = "redis" if "valkey" in process.name() else kinds.get(process.pid)
            if kind is not None:
                yield kind, process


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2, help="processes, of each shard")
    parser.add_argument("--embedding", type=int, default=1280, help="numbers of the embedding in a row")
    parser.add_argument("--shards", type=int, default=1, help="each a Valkey with its orchestrator")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dermbatch-scale-") as place, ExitStack() as ending:
        watch = ending.enter_context(Watch())
        each = options.images // options.shards
        shards = [_shard(number, each, options, Path(place), ending, watch) for number in range(options.shards)]
        course = Course()
        while not all(shard.closed for shard in shards):
            course.note(shards)
            course.say(each * options.shards)
            time.sleep(0.2)
        course.note(shards)
        for child in multiprocessing.active_children():
            watch.release(child.name)
            child.terminate()
    _print(course, shards, options)


def _shard(
    number: int, images: int, options: argparse.Namespace, place: Path, ending: ExitStack, watch: Watch
) -> Shard:
    folder = place / f"shard-{number}"
    folder.mkdir()
    base = base_environment(os.environ)
    part, settings = redis_part(folder / "redis", folder / "redis.log", free_ports(1)[0], base)
    ending.enter_context(running(part))
    batch = work.no_op_batch(f"{BATCH}-{number}", images)
    ledger = Ledger(settings, LedgerSettings())
    ledger.batches.open(batch)  # so that its orchestrator does not end at once
    watch.add(spawned(f"orchestrator-{number}", folder / "orchestrator.log", orchestrate, settings, batch))
    for worker in range(options.workers):
        log = folder / f"worker-{worker}.log"
        watch.add(
            spawned(f"worker-{number}-{worker}", log, work_off, settings, batch.name, worker, options.embedding)
        )
    return Shard(batch.name, ledger, images)


def _print(course: Course, shards: list[Shard], options: argparse.Namespace) -> None:
    shares = {"start": (0.02, 0.12), "middle": (0.45, 0.55), "end": (0.85, 0.95)}
    found = {when: course.between(*share) for when, share in shares.items()}
    closing = max(shard.closed - shard.finished for shard in shards)
    table = Table("", "images/s", *(f"{kind}, CPU us an image" for kind in found["start"][1]))
    for when, (rate, cpu) in found.items():
        table.add_row(when, f"{rate:,.0f}", *(f"{value:.0f}" for value in cpu.values()))
    console.print(table)
    memory = {what: round(size / _MIB) for what, size in course.most.items()}
    console.print(f"{options.images:,} images, {len(shards)} shards; closing took {closing:.1f} s")
    console.print("most memory, MiB: " + ", ".join(f"{what} {size}" for what, size in memory.items()))
    rates = {when: round(rate) for when, (rate, _) in found.items()}
    cpu = {when: {kind: round(value) for kind, value in each.items()} for when, (_, each) in found.items()}
    print(
        json.dumps({"images": options.images, **rates, "closing": round(closing, 2), "cpu": cpu, "memory": memory})
    )


if __name__ == "__main__":
    main()
