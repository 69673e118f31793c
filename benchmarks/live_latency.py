"""How long live images wait for a worker while a large bulk batch runs, against an idle system.

Real Valkey, S3, orchestrator and workers, as ``dermbatch up`` starts them: a worker for both lanes, and one that
takes live images only. The work is a no-op that takes 50 to 100 ms. Live batches of one image arrive as a Poisson
process; an image waits from the moment that its batch is submitted (manifest written) until its attempt begins.
Idle and loaded periods take turns.

    python -m benchmarks.live_latency [--bulk N] [--live N] [--every S] [--rounds N] [--slots N] [--live-slots N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import worker
from benchmarks.children import running
from benchmarks.killloop import work
from benchmarks.servers import redis_and_s3
from dermbatch import layout
from dermbatch.errors import ObjectNotFound
from dermbatch.ledger import Ledger
from dermbatch.records.asked import BatchControl
from dermbatch.records.outcome import ResultRecord
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from orchestrator.stack.environment import base_environment, settings_environment
from orchestrator.stack.process import Part, python_module
from orchestrator.steering.controls import begin

LIMIT = 3.0
BULK = "bulk"
SLEEP = (0.05, 0.1)

console = Console(highlight=False)


def no_op_worker() -> None:
    """A real worker with the no-op work of this bench."""
    work.SLEEP = SLEEP
    worker.run(work.process)


class LiveBench:
    """The parts, and what is asked of them.

    Args:
        folder: For data and logs.
        slots: Images at a time of the worker for both lanes.
        live_slots: Of the worker for live images only.
        seed: Of the arrivals.
        pause: Seconds between two periods.
    """

    def __init__(self, folder: Path, slots: int, live_slots: int, seed: int, pause: float) -> None:
        base = base_environment(os.environ)
        start = Settings()
        self.servers, queue_settings, store = redis_and_s3(folder, start.store)
        changes: dict[str, object] = {
            "redis": queue_settings,
            "store": store,
            "worker": start.worker.model_copy(update={"metrics_port": 0, "concurrency": slots}),
            "orchestrator": start.orchestrator.model_copy(update={"metrics_port": 0}),
        }
        self.settings = start.model_copy(update=changes)
        only_live = start.worker.model_copy(
            update={"metrics_port": 0, "concurrency": live_slots, "lanes": ("live",)}
        )
        settings = {
            "orchestrator": self.settings,
            "worker": self.settings,
            "worker-live": self.settings.model_copy(update={"worker": only_live}),
        }
        own = python_module("benchmarks.live_latency", "--worker")
        self.programs = [
            Part(
                name=name,
                argv=python_module("orchestrator") if name == "orchestrator" else own,
                env={**base, **settings_environment(its)},
                log=folder / f"{name}.log",
                probe=lambda: True,
            )
            for name, its in settings.items()
        ]
        self._slots, self._pause = slots + live_slots, pause
        self._rng = random.Random(seed)
        self._sent = 0

    def connect(self) -> None:
        """Connect to what runs by now, and wait until all slots have reported."""
        self.store = ObjectStore(self.settings.store)
        self.ledger = Ledger(self.settings.redis, self.settings.ledger)
        while self.ledger.slots.live() < self._slots:
            time.sleep(0.1)

    def start_bulk(self, images: int) -> None:
        """Submit the bulk batch, and wait until it is well under way."""
        batch = work.no_op_batch(BULK, images)
        work.submit(self.store, batch, work.entries(images))
        begin(self.store, self.ledger, batch)
        while self.running() < min(50, images // 4):
            time.sleep(0.1)

    def pause_bulk(self, paused: bool) -> None:
        """Hold the bulk batch, and wait until what was in flight is done; or let it go on."""
        self.ledger.batches.steer(BULK, BatchControl(state="paused" if paused else "open"))
        self.ledger.slots.wake()
        while paused and self.ledger.images.in_flight():
            time.sleep(0.1)
        time.sleep(self._pause)

    def running(self) -> int:
        """Bulk images that are done."""
        state = self.ledger.batches.get(BULK)
        return 0 if state is None else state.done

    def waits(self, images: int, every: float) -> list[float]:
        """Submit live images at random times, ``every`` seconds on average; how long each waited."""
        submitted: dict[str, float] = {}
        for _ in range(images):
            time.sleep(self._rng.expovariate(1 / every))
            self._sent += 1
            batch = work.no_op_batch(f"live-{self._sent}", 1, "live")
            work.submit(self.store, batch, work.entries(1))
            submitted[batch.name] = time.time()
            begin(self.store, self.ledger, batch)
        return [self._record(name).started.timestamp() - when for name, when in submitted.items()]

    def _record(self, name: str) -> ResultRecord:
        deadline = time.monotonic() + 60
        while True:
            try:
                return ResultRecord.model_validate_json(self.store.get(self.store.bucket, layout.result(name, 0)))
            except ObjectNotFound:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def measure(options: argparse.Namespace) -> tuple[list[float], list[float], float]:
    """Waiting times, idle and loaded, and bulk images/s while live ones came."""
    idle: list[float] = []
    loaded: list[float] = []
    with tempfile.TemporaryDirectory(prefix="dermbatch-live-") as place:
        bench = LiveBench(Path(place), options.slots, options.live_slots, options.seed, options.pause)
        with running(*bench.servers), running(*bench.programs):
            bench.connect()
            bench.waits(5, 0.2)  # first connections, first imports
            bench.start_bulk(options.bulk)
            done, seconds = 0, 0.0
            for _ in range(options.rounds):
                bench.pause_bulk(True)
                idle += bench.waits(options.live // options.rounds, options.every)
                bench.pause_bulk(False)
                before, start = bench.running(), time.monotonic()
                loaded += bench.waits(options.live // options.rounds, options.every)
                done, seconds = done + bench.running() - before, seconds + time.monotonic() - start
    return idle, loaded, done / seconds


def main() -> None:
    """Measure and print; the exit status is 1 where live images wait more than three times as long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bulk", type=int, default=100_000)
    parser.add_argument("--live", type=int, default=400, help="live images, idle and loaded each")
    parser.add_argument("--every", type=float, default=0.25, help="seconds between two of them, on average")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--slots", type=int, default=6)
    parser.add_argument("--live-slots", type=int, default=2)
    parser.add_argument("--pause", type=float, default=2, help="seconds between idle and loaded periods")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        no_op_worker()
        return
    idle, loaded, rate = measure(options)
    table = Table("waiting time, ms", "idle", f"beside {options.bulk:,} bulk images", "ratio")
    figures: dict[str, float] = {"bulk_images_per_second": round(rate, 1)}
    for name, share in (("p50", 50), ("p99", 99), ("most", 100)):
        calm, busy = (1000 * float(np.percentile(waits, share)) for waits in (idle, loaded))
        table.add_row(name, f"{calm:.0f}", f"{busy:.0f}", f"{busy / calm:.2f}")
        figures |= {f"idle_{name}_ms": round(calm, 1), f"loaded_{name}_ms": round(busy, 1)}
        figures[f"ratio_{name}"] = round(busy / calm, 2)
    console.print(table)
    print(json.dumps(figures))
    raise SystemExit(int(figures["ratio_p99"] > LIMIT))


if __name__ == "__main__":
    main()
