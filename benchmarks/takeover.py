"""How soon the images of a killed worker have their results from another one, with the leases of production.

Real Valkey, S3, orchestrator and workers with no-op stages; each round one worker is killed with all its processes
by SIGKILL. Counted are the images that one of them had in hand without a record yet.

    python -m benchmarks.takeover [--rounds N] [--images N] [--slots N] [--lease S] [--settle S]
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

from benchmarks.children import Watch, of_part
from benchmarks.killloop import work
from benchmarks.killloop.house import House
from dermbatch import layout
from dermbatch.errors import ObjectNotFound
from dermbatch.ledger import ImageRef, Ledger
from dermbatch.settings import LedgerSettings
from dermbatch.store import ObjectStore
from orchestrator.stack.process import python_module
from orchestrator.steering.controls import begin

console = Console(highlight=False)


def recorded(store: ObjectStore, index: int) -> bool:
    """Whether an image has its result."""
    try:
        store.get(store.bucket, layout.result(work.BATCH, index))
    except ObjectNotFound:
        return False
    return True


def recorded_any(ledger: Ledger) -> bool:
    """Whether the workers have come to work."""
    state = ledger.batches.get(work.BATCH)
    return state is not None and state.done > 0


def waits(house: House, watch: Watch, store: ObjectStore, name: str, settle: float) -> list[float]:
    """Kill a worker; seconds until each image that it had has its result."""
    main = house.parts[name].program_pid
    notes: list[Path] = []
    while not any(note.exists() for note in notes):  # one that was just started again has nothing to lose yet
        time.sleep(0.05)
        notes = [house.hands / str(process.pid) for process in psutil.Process(main).children(recursive=True)]
    killed = time.monotonic()
    watch.release(name)
    house.kill(name)
    time.sleep(0.3)  # what was on its way to the store is there now
    had = {ImageRef.named(text).index for note in notes if note.exists() and (text := note.read_text())}
    left = {index for index in had if not recorded(store, index)}
    found = []
    while left and time.monotonic() - killed < 120:
        for index in [index for index in left if recorded(store, index)]:
            left.discard(index)
            found.append(time.monotonic() - killed)
        time.sleep(0.02)
    if left:
        raise SystemExit(f"{len(left)} images did not come back within 120 s")
    while house.parts[name].running:  # its guard may be slow to see that it is gone
        time.sleep(0.05)
    house.mend()
    watch.add(of_part(house.parts[name]))
    time.sleep(settle)
    return found


def main() -> None:
    """Run the rounds; print them, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--slots", type=int, default=4, help="images at a time of each of the two workers")
    parser.add_argument("--lease", type=float, default=LedgerSettings().lease, help="seconds")
    parser.add_argument("--settle", type=float, default=8, help="seconds between a restart and the next kill")
    given = parser.parse_args()
    ledger_settings = LedgerSettings(lease=given.lease, heartbeat=given.lease / 3)
    programs = {
        "orchestrator": python_module("orchestrator"),
        "worker-1": python_module("benchmarks.killloop.worker"),
        "worker-2": python_module("benchmarks.killloop.worker"),
    }
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder) / "house", programs, slots=given.slots, ledger=ledger_settings, clocks=False)
        try:
            house.start_servers()
            house.start_programs()
            with Watch(*map(of_part, house.parts.values())) as watch:
                store, ledger = ObjectStore(house.straight), Ledger(house.settings.redis, house.settings.ledger)
                batch = work.no_op_batch(work.BATCH, given.images)
                work.submit(store, batch, work.entries(given.images))
                begin(store, ledger, batch)
                while ledger.slots.live() < 2 * given.slots or not recorded_any(ledger):
                    time.sleep(0.1)
                time.sleep(min(5, given.settle))
                seconds: list[float] = []
                rounds = 0
                while rounds < given.rounds or not seconds:  # else the killed ones happened to have no image
                    if (state := ledger.batches.get(work.BATCH)) is None or state.finished:
                        raise SystemExit(
                            "the batch ended before a killed worker had an image: give it more --images"
                        )
                    seconds += waits(house, watch, store, f"worker-{rounds % 2 + 1}", given.settle)
                    rounds += 1
        finally:
            house.stop()
    console.print(
        f"{len(seconds)} images of {rounds} killed workers: "
        f"{statistics.median(seconds):.1f} s in the median, {max(seconds):.1f} s at most"
    )
    print(json.dumps({"images": len(seconds), "median": statistics.median(seconds), "most": max(seconds)}))


if __name__ == "__main__":
    main()
