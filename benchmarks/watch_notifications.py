"""Thousands of notifications, some of them twice or more, out of order, while the watcher is killed and restarted.

Objects are put side by side; each is announced at least once, and again until the watcher has answered, as stores
do. Meanwhile the watcher is ended by SIGKILL and started again. In the end every object is to be taken in once.

    python -m benchmarks.watch_notifications [--objects N] [--kills N] [--seed N]
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.watching import BUCKET, PREFIX, WatchBench

DUPLICATES = 0.3
_AT_A_TIME = 50
_WRITERS = 8
_PATIENCE = 120


@dataclass(frozen=True)
class NotificationOutcome:
    """What became of the objects, and how long it took."""

    objects: int
    notified: int
    lost: int
    duplicated: int
    seconds: float


def run(bench: WatchBench, objects: int, kills: int, seed: int) -> NotificationOutcome:
    """Put objects, announce them, kill the watcher, and count what was taken in."""
    chance = random.Random(seed)
    keys = [f"study-{number % 97:02d}/{number:06d}.jpg" for number in range(objects)]
    chance.shuffle(keys)
    told = Counter[str]()
    put = threading.Semaphore(0)
    began = time.monotonic()

    def write(first: int) -> None:
        mine = keys[first : first + _AT_A_TIME]
        for key in mine:
            bench.store.put(key, b"\xff\xd8\xff" + key.encode(), "image/jpeg", bucket=BUCKET)
        again = [
            key for key in keys[: first + len(mine)] if chance.random() < DUPLICATES * len(mine) / (first + 1)
        ]
        events = mine + again
        chance.shuffle(events)
        given_up = time.monotonic() + _PATIENCE
        while not bench.notify(events):
            bench.check()
            if time.monotonic() > given_up:
                raise SystemExit("the watcher takes no notifications")
            time.sleep(0.05)
        told.update(events)
        put.release()

    with ThreadPoolExecutor(_WRITERS) as pool:
        rounds = [pool.submit(write, first) for first in range(0, objects, _AT_A_TIME)]
        for _ in range(kills):
            for _ in range(len(rounds) // (kills + 1)):
                put.acquire()
            bench.signal(signal.SIGKILL)
            bench.start()
        for one in rounds:
            one.result()
    wanted = {PREFIX + key for key in keys}
    deadline = time.monotonic() + _PATIENCE
    while not wanted <= set(bench.taken()) and time.monotonic() < deadline:
        time.sleep(0.2)
    bench.signal(signal.SIGTERM)
    bench.start()  # which looks at all once more
    bench.notify(keys[:500])
    time.sleep(2)
    counted = Counter(bench.taken())
    duplicated = sum(count - 1 for count in counted.values())
    seconds = time.monotonic() - began
    return NotificationOutcome(objects, told.total(), len(wanted - set(counted)), duplicated, seconds)


def main() -> None:
    """Run it; the last line has the figures. Exit code 1 where something was lost or is there twice."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, WatchBench(Path(folder), every=5) as bench:
        found = run(bench, given.objects, given.kills, given.seed)
    print(f"{found.notified} notifications in {found.seconds:.1f} s, seed {given.seed}")
    print(f"lost={found.lost} duplicated={found.duplicated} objects={found.objects}")
    sys.exit(1 if found.lost or found.duplicated else 0)


if __name__ == "__main__":
    main()
