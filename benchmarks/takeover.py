"""How soon the images of a killed worker have their results from another one, with the leases of production.

Real Valkey, S3, orchestrator and workers with no-op stages; each round one worker is killed with all its processes
by SIGKILL. Counted are the images that one of them had in hand without a record yet.

    python -m benchmarks.takeover [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks.killloop import work
from benchmarks.killloop.house import House
from dermbatch import layout
from dermbatch.errors import ObjectNotFound
from dermbatch.ledger import Ledger
from dermbatch.settings import LedgerSettings
from dermbatch.store import ObjectStore
from orchestrator.stack.process import python_module
from orchestrator.steering.controls import begin

IMAGES = 100_000
console = Console(highlight=False)


def recorded(store: ObjectStore, index: int) -> bool:
    """Whether an image has its result."""
    try:
        store.get(store.bucket, layout.result(work.BATCH, index))
    except ObjectNotFound:
        return False
    return True


def waits(house: House, store: ObjectStore, name: str) -> list[float]:
    """Kill a worker; seconds until each image that it had has its result."""
    main = house.parts[name].program_pid
    pool = psutil.Process(main).children(recursive=True)
    notes = [house.hands / str(process.pid) for process in pool]
    killed = time.monotonic()
    house.kill(name)
    time.sleep(0.3)  # what was on its way to the store is there now
    had = {int(text) for note in notes if note.exists() and (text := note.read_text())}
    left = {index for index in had if not recorded(store, index)}
    found = []
    while left and time.monotonic() - killed < 120:
        for index in [index for index in left if recorded(store, index)]:
            left.discard(index)
            found.append(time.monotonic() - killed)
        time.sleep(0.02)
    if left:
        raise SystemExit(f"{len(left)} images did not come back within 120 s")
    house.mend()
    time.sleep(8)
    return found


def main() -> None:
    """Run the rounds; print them, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    given = parser.parse_args()
    programs = {
        "orchestrator": python_module("orchestrator"),
        "worker-1": python_module("benchmarks.killloop.worker"),
        "worker-2": python_module("benchmarks.killloop.worker"),
    }
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder) / "house", programs, slots=4, ledger=LedgerSettings(), clocks=False)
        try:
            house.start_servers()
            house.start_programs()
            store, ledger = ObjectStore(house.straight), Ledger(house.settings.redis, house.settings.ledger)
            batch = work.no_op_batch(work.BATCH, IMAGES)
            work.submit(store, batch, work.entries(IMAGES))
            begin(store, ledger, batch)
            while ledger.slots.live() < 8:
                time.sleep(0.1)
            time.sleep(5)
            seconds = [
                one for number in range(given.rounds) for one in waits(house, store, f"worker-{number % 2 + 1}")
            ]
        finally:
            house.stop()
    console.print(
        f"{len(seconds)} images of {given.rounds} killed workers: "
        f"{statistics.median(seconds):.1f} s in the median, {max(seconds):.1f} s at most"
    )
    print(json.dumps({"images": len(seconds), "median": statistics.median(seconds), "most": max(seconds)}))


if __name__ == "__main__":
    main()
