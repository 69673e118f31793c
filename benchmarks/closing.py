"""How long a batch takes to close, and what memory: records as large as real ones, on the embedded S3 server.

Rows come as workers send them (``--without-rows``: all are lost, and each record is read), are gathered by as
many threads as the orchestrator has, as while the batch runs, and then it is closed. A batch of N images and one
of 4 N, each in a process of its own, so that memory of the one does not count for the other. Records are
synthetic: an embedding of 1,280 numbers and a preview of some 25 KB each. With ``--compared`` the batch is
compared with another, of which it has other masks.

    python -m benchmarks.closing [--images N] [--times N] [--readers N] [--compared] [--without-rows]
    python -m benchmarks.closing --without-store [--images N] [--times N]

The second is for sizes that no S3 server of one machine is filled with in reasonable time: a stand-in lists a
result of every image and makes those records that are read; rows have an embedding of 8 numbers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.children import Watch, running, spawned
from benchmarks.scale import ResultsBucket
from dermbatch import layout
from dermbatch.records.asked import Batch, Earlier
from dermbatch.records.outcome import FailureRecord, ResultRecord
from dermbatch.records.row import row_of, sent
from dermbatch.settings import StoreSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.batches.outcomes import in_order
from orchestrator.reporting.closing import close, gather
from orchestrator.reporting.table.parts import ROWS
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.servers.s3 import s3_part
from tests.outcome_samples import (
    batch_of,
    entry_of,
    failure_of,
    mask_png,
    picture,
    result_of,
    write_manifest,
    write_record,
)

console = Console(highlight=False, width=180)

_FAILED_EVERY = 50
_FLAGGED_EVERY = 10
_DISTINCT = 32
_EMBEDDING = 1280
_GATHERERS = 4
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Figures:
    """What one closing took."""

    images: int
    gathering: float
    seconds: float
    cpu_seconds: float
    memory_before: int
    memory_peak: int
    sizes: dict[str, int]


@contextmanager
def server() -> Iterator[StoreSettings]:
    """The stack's S3 server, on a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        part, settings, _ = s3_part(
            folder, folder / "s3.log", free_ports(1)[0], base_environment(os.environ), StoreSettings()
        )
        with running(part):
            yield settings


def record_of(batch: str, index: int, version: str, previews: Sequence[bytes]) -> ResultRecord | FailureRecord:
    """A record as large as real ones."""
    if index % _FAILED_EVERY == 0:
        return failure_of(batch, index)
    flags = ("low_confidence",) if index % _FLAGGED_EVERY == 0 else ()
    vector = np.random.default_rng(index).random(_EMBEDDING, np.float32)
    preview = previews[index % len(previews)]
    return result_of(batch, index, vector=vector, preview=preview, flags=flags, versions={Stage.SEGMENT: version})


def lines_of(name: str, first: int, end: int) -> list[str]:
    """The rows that workers send of these images."""
    records = (record_of(name, index, "1", [b""]) for index in range(first, end))
    return [sent(row_of(record)) for record in records if isinstance(record, ResultRecord)]


def fill(store: ObjectStore, name: str, images: int, *, compared: bool) -> None:
    """Write manifest and records of a batch, and of the one that it is compared with."""
    previews = [picture(index, noise=24) for index in range(_DISTINCT)]
    drawn = [mask_png(5 + number) for number in range(_DISTINCT)]

    def one(index: int) -> None:
        write_record(store, record_of(name, index, "1", previews))
        if compared:
            old = result_of("old", index, embedding=_EMBEDDING, preview=previews[0], versions={Stage.SEGMENT: "0"})
            write_record(store, old)
            for record in (old, record_of(name, index, "1", previews)):
                if isinstance(record, ResultRecord):
                    key = record.stages[Stage.SEGMENT].artifacts["mask.png"]
                    store.put(key, drawn[(index + (record is old)) % _DISTINCT], "image/png")

    batch = batch_of(name, images, compared_with=("old",) if compared else ())
    earlier = (Earlier(batch="old", index=index) if compared else None for index in range(images))
    write_manifest(store, batch, (entry_of(index, earlier=one) for index, one in enumerate(earlier)))
    for _ in in_order(one, range(images), 4):
        pass


def apart(function: Callable[..., Figures], *arguments: Any) -> Figures:
    """A function's figures from a process of its own."""
    told = multiprocessing.get_context("spawn").Queue()
    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        watch.add(spawned("closing", Path(folder) / "closing.log", tell, told, function, *arguments))
        figures: Figures = told.get()
    return figures


def tell(told: Queue[Figures], function: Callable[..., Figures], *arguments: Any) -> None:
    """Put the figures into a queue."""
    told.put(function(*arguments))


def measure(settings: StoreSettings, name: str, images: int, readers: int, compared: bool, rows: bool) -> Figures:
    """Close a batch; to be run in a process of its own."""
    store = ObjectStore(settings)
    small = batch_of("warm", 1)
    write_manifest(store, small, [entry_of(0)])
    write_record(store, result_of("warm", 0))
    close(store, small, "finished", 1, readers)  # what is imported and made once does not grow with a batch
    batch = batch_of(name, images, compared_with=("old",) if compared else ())
    return closed(store, batch, readers, lines_of if rows else None)


def simulated(name: str, images: int, readers: int) -> Figures:
    """The same without an object store."""
    warm = batch_of("warm", 1)
    close(ResultsBucket(warm), warm, "finished", 1, readers)  # type: ignore[arg-type]
    batch = batch_of(name, images)
    return closed(ResultsBucket(batch), batch, readers, alike)  # type: ignore[arg-type]


def closed(
    store: ObjectStore, batch: Batch, readers: int, rows: Callable[[str, int, int], list[str]] | None
) -> Figures:
    """Gather the rows, where they come, and close."""
    before = peak()
    gathering = gathered(store, batch, rows) if rows else 0.0
    name, images, cpu = batch.name, batch.images, time.process_time()
    start = time.monotonic()
    closing = close(store, batch, "finished", 4, readers)
    seconds = time.monotonic() - start
    if closing.summary is None or closing.summary.done + closing.summary.failed != images:
        raise SystemExit(f"{len(closing.missing)} records are missing: the figures would mean nothing")
    sizes = {key: size_of(store, key) for key in (layout.report(name), layout.table(name))}
    return Figures(images, gathering, seconds, time.process_time() - cpu, before, peak(), sizes)


def alike(name: str, first: int, end: int) -> list[str]:
    """Rows of images that differ in their index alone."""
    rest = sent(row_of(result_of(name, 0, embedding=8, preview=b""))).partition(",")[2]
    return [f'{{"index":{index},{rest}' for index in range(first, end)]


def gathered(store: ObjectStore, batch: Batch, rows: Callable[[str, int, int], list[str]]) -> float:
    """Gather all rows but the last, and say how long that took; making them does not count."""
    seconds = 0.0
    with ThreadPoolExecutor(_GATHERERS) as pool:
        for first in range(0, batch.images, _GATHERERS * ROWS):
            ends = range(first, min(batch.images, first + _GATHERERS * ROWS), ROWS)
            lines = [rows(batch.name, end, min(batch.images, end + ROWS)) for end in ends]
            start = time.monotonic()
            list(pool.map(lambda some: gather(store, batch, some), lines))
            seconds += time.monotonic() - start
    return seconds


def peak() -> int:
    """The most memory that this process ever had resident, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def size_of(store: ObjectStore, key: str) -> int:
    """Bytes of an object."""
    return sum(info.size for info in store.list(store.bucket, key))


def figures(name: str, images: int, asked: argparse.Namespace, settings: StoreSettings | None) -> Figures:
    """Those of one batch."""
    if settings is None:
        return apart(simulated, name, images, asked.readers)
    fill(ObjectStore(settings), name, images, compared=asked.compared)
    return apart(measure, settings, name, images, asked.readers, asked.compared, not asked.without_rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="N")
    parser.add_argument("--times", type=int, default=4, help="the second batch is that much larger")
    parser.add_argument("--readers", type=int, default=16, help="records read at a time")
    parser.add_argument("--without-rows", action="store_true", help="each record is read")
    parser.add_argument("--compared", action="store_true", help="with a comparison")
    parser.add_argument("--without-store", action="store_true", help="a stand-in lists and has the records")
    asked = parser.parse_args()
    heads = ("images", "gathering, s", "closing, s", "images/s, closing", "both", "CPU ms each")
    table = Table(*heads, "MiB before", "MiB more at peak", "MiB written")
    with nullcontext() if asked.without_store else server() as settings:
        for images in (asked.images, asked.images * asked.times):
            one = figures(f"closing-{images}", images, asked, settings)
            table.add_row(
                f"{one.images:,}",
                f"{one.gathering:.1f}",
                f"{one.seconds:.1f}",
                f"{one.images / one.seconds:.0f}",
                f"{one.images / (one.seconds + one.gathering):.0f}",
                f"{1000 * one.cpu_seconds / one.images:.2f}",
                f"{one.memory_before / _MIB:.0f}",
                f"{(one.memory_peak - one.memory_before) / _MIB:.0f}",
                ", ".join(f"{Path(key).name} {size / _MIB:.1f}" for key, size in one.sizes.items()),
            )
    console.print(table)


if __name__ == "__main__":
    main()
