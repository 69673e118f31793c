"""Redis memory of a batch of ten million images over one of a hundred thousand; the batches are simulated.

Nothing is stored but in the real Valkey: a stand-in for the object store makes the manifest's parts when the real
dispatcher asks for them, and images are claimed and finished through the ledger itself. First, outcomes are noted
as far as the last image (as after a loss of Redis), so that the bitmaps are as long as they ever get; then images
are fed and run at the front. The most that Redis used counts.

    python -m benchmarks.ledger_memory [--small N] [--large N] [--run N]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import redis
from celery import Celery
from rich.console import Console
from rich.table import Table

from benchmarks.children import running
from benchmarks.killloop import work
from dermbatch import layout
from dermbatch.errors import ObjectNotFound
from dermbatch.ledger import Claim, Ledger
from dermbatch.ledger.queue import QUEUES, celery_config
from dermbatch.records.asked import Batch, BatchControl, ManifestEntry
from dermbatch.settings import LedgerSettings, RedisSettings
from orchestrator.dispatch.dispatcher import Dispatcher
from orchestrator.dispatch.messages import Messages, job_of
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.servers.redis import redis_part

LIMIT = 4 * 1024 * 1024
SLOTS = 64
WINDOW = LedgerSettings(window_per_slot=20, window_seconds=0.001)
"""The same window for both, large as it is with fast work; else it would follow the speed of this very machine."""

console = Console(highlight=False)


class SimulatedStore:
    """What the dispatcher reads of a batch, made when it is read."""

    bucket = "simulated"

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def get(self, bucket: str, key: str) -> bytes:
        name = self._batch.name
        if key == layout.batch_record(name):
            return self._batch.to_json()
        folder = layout.manifest_part(name, "").rpartition("/")[0] + "/"
        if not key.startswith(folder):
            raise ObjectNotFound(f"no such object: {key}")
        start = int(key.removeprefix(folder).partition(".")[0]) * layout.PART_SIZE
        end = min(start + layout.PART_SIZE, self._batch.images)
        lines = (
            ManifestEntry(index=index, name=f"image-{index}", source=f"s3://archive/{index}", size=1_000_000)
            for index in range(start, end)
        )
        return b"".join(line.to_json() + b"\n" for line in lines)


def most_used(client: redis.Redis, settings: RedisSettings, images: int, run: int) -> int:
    """Bytes that Redis used at most for a batch of so many images, over those it used when empty."""
    client.flushall()
    client.memory_purge()
    before = used(client)
    ledger = Ledger(settings, LedgerSettings())
    batch = work.no_op_batch("simulated", images)
    ledger.batches.open(batch)
    app = Celery("simulated")
    app.conf.update(celery_config(settings))
    dispatcher = Dispatcher(
        SimulatedStore(batch),  # type: ignore[arg-type]
        ledger,
        Messages(app, settings.signing_key),
        WINDOW,
        "bench",
    )
    for slot in range(SLOTS):
        ledger.slots.report(f"slot-{slot}")
    # As long as a bitmap gets: an outcome of the last image, and of some all over the batch.
    ledger.batches.restore(
        batch, BatchControl(), spread(images), ((index, "poison") for index in spread(images - 1))
    )
    most = finished = 0
    while finished < run:
        dispatcher.feed()
        most = max(most, used(client))
        ended = finish_queued(client, ledger)
        finished += ended
        if not ended and (state := ledger.batches.get(batch.name)) is not None and state.finished:
            raise SystemExit(
                f"a batch of {images:,} images has fewer than {run:,} that can be run: take a larger one"
            )
    return most - before


def finish_queued(client: redis.Redis, ledger: Ledger) -> int:
    """Be the workers for what is in the queue."""
    finished = 0
    while (payload := client.rpop(QUEUES["bulk"])) is not None:
        job = job_of(payload)  # type: ignore[arg-type]
        claim = ledger.images.claim(job, "bench")
        if isinstance(claim, Claim):
            ledger.images.finish(job, claim.owner, "done")
            finished += 1
    return finished


def spread(images: int) -> Iterator[int]:
    """Some indices, to the last."""
    yield from range(images - 1, 0, -max(1, images // 1000))


def used(client: redis.Redis) -> int:
    """Bytes, without what it keeps for clients and for its file's writing."""
    return int(client.info("memory")["used_memory"])


def main() -> None:
    """Measure and print; the exit status is 1 where the large batch takes more than 4 MB more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=10_000_000)
    parser.add_argument("--run", type=int, default=20_000, help="images that are run at the front")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dermbatch-memory-") as place:
        folder = Path(place)
        base = base_environment(os.environ)
        part, settings = redis_part(folder / "redis", folder / "redis.log", free_ports(1)[0], base)
        with running(part), redis.Redis.from_url(settings.url, decode_responses=True) as client:
            most_used(client, settings, options.small, min(500, options.run))  # so scripts and clients are there
            found = {
                images: most_used(client, settings, images, options.run)
                for images in (options.small, options.large)
            }
    table = Table("images", "most that Redis used, bytes")
    for images, size in found.items():
        table.add_row(f"{images:,}", f"{size:,}")
    more = found[options.large] - found[options.small]
    table.add_row("more", f"{more:,}")
    console.print(table)
    print(json.dumps({"small": found[options.small], "large": found[options.large], "more": more}))
    raise SystemExit(int(more > LIMIT))


if __name__ == "__main__":
    main()
