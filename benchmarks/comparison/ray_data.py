"""Ray Data's side, run by the environment that has it: fused actors, one a processor, each with its own models.

Reads keys in JSON, prints its figures in JSON. Rows say when they were begun and ended, so that the start of Ray
and of its actors does not count.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import ray  # type: ignore[import-not-found,unused-ignore]

from benchmarks.comparison.meter import Meter
from benchmarks.comparison.work import Given, Work
from dermbatch.store import ObjectStore


class Actor:
    """Processes images, one a call."""

    def __init__(self, file: str) -> None:
        given = Given.read(Path(file))
        self._work, self._store = Work(given), ObjectStore(given.settings.store)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """All images of a batch."""
        begun = time.time()
        for key in batch["item"]:
            self._work.process(self._store, str(key))
        return {"begun": [begun], "ended": [time.time()]}


def main() -> None:
    """Run."""
    keys, count = json.load(sys.stdin), len(os.sched_getaffinity(0))
    ray.init(num_cpus=count, include_dashboard=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    with Meter({"ray": os.getpid()}) as meter:
        rows = (
            ray.data.from_items(keys, override_num_blocks=len(keys))
            .map_batches(Actor, batch_size=1, concurrency=count, num_cpus=1, fn_constructor_args=(sys.argv[1],))
            .take_all()
        )
    seconds = max(row["ended"] for row in rows) - min(row["begun"] for row in rows)
    assert len(rows) == len(keys)
    print(json.dumps({"rate": len(keys) / seconds, "peak": meter.peak, "cpu": sum(meter.cpu.values())}))


if __name__ == "__main__":
    main()
