"""How soon an object is in the queue after its upload: told by a notification, and found by listing alone.

Real Valkey, S3, orchestrator and ``dermbatch watch``. The clock runs from the answer to the upload until the
message that asks a worker for the image lies in the queue. Nothing is computed: messages are taken out of it, and
their images called done.

    python -m benchmarks.watch_latency [--objects N] [--every SECONDS] [--there N]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.watching import BUCKET, WatchBench


def waits(bench: WatchBench, prefix: str, objects: int, *, told: bool, apart: float) -> list[float]:
    """Put objects one after the other; seconds until each is in the queue."""
    chance = random.Random(1)
    found = []
    for number in range(objects):
        time.sleep(chance.uniform(0, apart))
        key = f"{prefix}/{number:05d}.jpg"
        bench.store.put(key, b"\xff\xd8\xff" + key.encode(), "image/jpeg", bucket=BUCKET)
        put = time.monotonic()
        if told and not bench.notify([key]):
            raise SystemExit("the watcher does not take notifications")
        while not bench.work_off():
            if time.monotonic() - put > 120:
                raise SystemExit("an object was not in the queue within 120 s")
            time.sleep(0.002)
        found.append(time.monotonic() - put)
    return found


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: half of them, 99 of 100, and all are at most as long."""
    ordered = sorted(1000 * second for second in seconds)
    return {
        "p50": round(statistics.median(ordered), 1),
        "p99": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 1),
        "most": round(ordered[-1], 1),
    }


def main() -> None:
    """Measure; a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--objects", type=int, default=100)
    parser.add_argument("--every", type=float, default=5, help="seconds between listings")
    parser.add_argument("--there", type=int, default=2000, help="objects that lie there before")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        WatchBench(Path(folder), given.every, orchestrator=True) as bench,
    ):
        for number in range(given.there):
            bench.store.put(f"old/{number:06d}.jpg", b"\xff\xd8\xff%d" % number, "image/jpeg", bucket=BUCKET)
        done = 0
        while done < given.there:
            done += bench.work_off()
            time.sleep(0.002)
        measured = {
            "notification": quantiles(waits(bench, "told", given.objects, told=True, apart=0.1)),
            "listing": quantiles(
                waits(bench, "listed", max(5, given.objects // 10), told=False, apart=given.every)
            ),
        }
    table = Table("found by", "p50 ms", "p99 ms", "most ms", title=f"{given.there:,} objects there before")
    for how, figures in measured.items():
        table.add_row(how, *(f"{value:,.0f}" for value in figures.values()))
    Console().print(table)
    print(json.dumps({"every": given.every, "there": given.there, **measured}))


if __name__ == "__main__":
    main()
