"""The desk at 100,000 results, in a real browser: first picture, filter, frames while scrolling, memory, load.

.. code-block:: sh

    .venv/bin/python -m benchmarks.desk_gallery --images 100000 --scroll 10000

The table has all images; records, of which pictures are shown, are written for those that the browser comes by.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
from playwright.sync_api import Page, sync_playwright

from benchmarks.servers import redis_and_s3
from dermbatch import layout
from dermbatch.settings import Settings
from dermbatch.settings.desk import DeskSettings
from dermbatch.store import ObjectStore
from dermbatch.stored import write
from desk.desk import Desk
from desk.door.sessions import Sessions
from orchestrator.reporting.table import parts
from orchestrator.reporting.table.columns import as_parquet, with_labels
from orchestrator.reporting.table.parts import TableManifest, TablePart
from orchestrator.stack.environment import base_environment, settings_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import stop_all
from tests.outcome_samples import LABELS, batch_of, failure_of, result_of, table_of, write_record

BATCH = "large"
FAILED = 200
"""One image of so many failed."""

_FRAMES = """() => { window.frames_ = []; let last = performance.now();
  const tick = (now) => { window.frames_.push(now - last); last = now; requestAnimationFrame(tick); };
  requestAnimationFrame(tick); }"""
_LEAP = """async (rows) => { const grid = document.getElementById('grid');
  for (let step = 0; step < rows; step++) { grid.scrollTop += 216; await new Promise(requestAnimationFrame); } }"""


def write_table(store: ObjectStore, images: int, embedding: int) -> None:
    """A table of made-up results as closing leaves it, in parts: real rows, again and again with other figures.

    Images end nearly in their order, as workers finish them; those that failed are in a part of their own.
    """
    random = np.random.default_rng(0)
    flagged = ("touches_frame",)
    real = table_of(
        result_of(BATCH, index, flags=() if index % 7 else flagged, preview=b"", embedding=4)
        for index in range(parts.ROWS)
    )
    failed = table_of(failure_of(BATCH, index) for index in range(parts.ROWS))
    failed = with_labels(failed, LABELS).select(real.column_names)
    order = np.argsort(np.arange(images) + random.uniform(0, 60, images)) if images else np.arange(0)
    bad = order % FAILED == FAILED - 1
    written = []
    for table, own in ((real, order[~bad]), (failed, order[bad])):
        for start in range(0, len(own), parts.ROWS):
            indices = np.sort(own[start : start + parts.ROWS])
            rows = _changed(table.slice(0, len(indices)), indices, embedding if table is real else 0, random)
            written.append(_part(store, indices, as_parquet(rows)))
    ordered = tuple(sorted(written, key=lambda part: part.first))
    write(store, layout.table_manifest(BATCH), TableManifest(rows=images, parts=ordered))
    store.put(layout.batch_record(BATCH), batch_of(BATCH, images).to_json(), "application/json")
    with ThreadPoolExecutor(4) as pool:
        shown = [index for index in range(min(images, 3000)) if index % FAILED != FAILED - 1]
        list(pool.map(lambda index: write_record(store, result_of(BATCH, index)), shown))


def _changed(
    table: pa.Table, indices: npt.NDArray[np.int64], embedding: int, random: np.random.Generator
) -> pa.Table:
    rows = len(indices)
    changed = {"index": pa.array(indices), "name": pa.array([f"clinic/{index:07d}.jpg" for index in indices])}
    if embedding:
        p = random.dirichlet((0.8, 1.5, 0.6), rows)
        changed |= {f"probability_{name}": pa.array(p[:, at]) for at, name in enumerate(LABELS)}
        changed["probability"] = pa.array(p.max(axis=1))
        changed["label"] = pa.array([LABELS[at] for at in p.argmax(axis=1)])
        vectors = random.standard_normal(rows * embedding).astype(np.float32)
        changed["embedding"] = pa.FixedSizeListArray.from_arrays(vectors, embedding).cast(pa.list_(pa.float32()))
    columns = [changed.get(name, table.column(name)) for name in table.column_names]
    return pa.table(columns, schema=table.schema)


def _part(store: ObjectStore, indices: npt.NDArray[np.int64], body: bytes) -> TablePart:
    name = f"part-{indices[0]:09d}-{hashlib.sha256(body).hexdigest()[:12]}.parquet"
    store.put(f"{layout.table_parts(BATCH)}{name}", body, "application/vnd.apache.parquet")
    first, last = int(indices[0]), int(indices[-1])
    return TablePart(name=name, rows=len(indices), first=first, last=last, bytes=len(body))


@contextmanager
def served(folder: Path, images: int, embedding: int) -> Iterator[tuple[Desk, psutil.Process]]:
    """A desk on servers of its own."""
    base, (port,) = base_environment(os.environ), free_ports(1)
    servers, redis_settings, store_settings = redis_and_s3(folder, Settings().store)
    for part in servers:
        part.start()
    try:
        for part in servers:
            part.wait()
        settings = Settings(
            redis=redis_settings, store=store_settings, desk=DeskSettings(listen_port=port, metrics_port=0)
        )
        desk = Desk.of(settings)
        write_table(desk.store, images, embedding)
        env = {**base, **settings_environment(settings), "TMPDIR": str(folder), "MALLOC_ARENA_MAX": "2"}
        process = subprocess.Popen([sys.executable, "-m", "desk"], env=env, stderr=subprocess.DEVNULL)
        try:
            _wait(f"http://127.0.0.1:{port}/health")
            yield desk, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(20)
    finally:
        stop_all(servers)


def browse(desk: Desk, scroll: int, rss: psutil.Process) -> Iterator[str]:
    """What a browser sees; a line for each figure."""
    url = f"http://127.0.0.1:{desk.settings.desk.listen_port}"
    link = f"{url}/enter?link={Sessions(desk.redis, 3600).link('bench')}"
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--enable-precise-memory-info"]
        )
        page = browser.new_page(viewport={"width": 1366, "height": 800})
        page.goto(link)
        for what in ("cold", "warm"):
            began = time.perf_counter()
            page.goto(f"{url}/gallery?batch={BATCH}")
            _until(page, "[...document.querySelectorAll('.cell img')].some((one) => one.naturalWidth)")
            yield f"first_picture_{what}_s={time.perf_counter() - began:.2f}"
        began = time.perf_counter()
        _until(page, "document.querySelector('.facet')", 200)
        yield f"facets_after_that_s={time.perf_counter() - began:.2f}"
        for q, what in (("probability:[0.4 TO 0.6] AND flag:touches_frame", "cold"), ("class:melanoma", "warm")):
            began = time.perf_counter()
            before = page.inner_text("#found")
            page.fill("#q", q)
            page.press("#q", "Enter")
            _until(page, f"document.querySelector('#found').textContent !== {before!r}")
            yield f"filter_{what}_s={time.perf_counter() - began:.2f} ({page.inner_text('#found')})"
        page.goto(f"{url}/gallery?batch={BATCH}")
        _until(page, "[...document.querySelectorAll('.cell img')].some((one) => one.naturalWidth)")
        yield from _scrolled(page, scroll, rss)
        browser.close()


def _scrolled(page: Page, scroll: int, rss: psutil.Process) -> Iterator[str]:
    columns = page.evaluate("Math.max(1, Math.floor(document.getElementById('grid').clientWidth / 170))")
    heap = "performance.memory.usedJSHeapSize / 1e6"
    before, memory = page.evaluate(heap), rss.memory_info().rss / 1e6
    page.evaluate(_FRAMES)
    browser = page.context.browser
    assert browser is not None
    browser.start_tracing(page=page, categories=["toplevel", "devtools.timeline"])
    page.evaluate(_LEAP, scroll // columns)
    frames = page.evaluate("window.frames_.slice(2)")
    tasks = tasks_of(json.loads(browser.stop_tracing()))
    page.wait_for_timeout(1000)
    yield (
        f"scrolled={scroll} frames={len(frames)} longest_frame_ms={max(frames):.0f} "
        f"p99_frame_ms={np.percentile(frames, 99):.0f} over_100_ms={sum(one > 100 for one in frames)}"
    )
    yield (
        f"tasks={len(tasks)} of the page's thread, processor's time: longest_ms={max(tasks):.0f} "
        f"p99_ms={np.percentile(tasks, 99):.1f} over_100_ms={sum(one > 100 for one in tasks)}"
    )
    cells = page.evaluate("document.querySelectorAll('.cell').length")
    yield f"heap_mb={before:.0f} -> {page.evaluate(heap):.0f}, cells={cells}"
    yield f"desk_rss_mb={memory:.0f} -> {rss.memory_info().rss / 1e6:.0f}"


def tasks_of(trace: dict[str, Any]) -> list[float]:
    """Milliseconds of processor of each task of the page's main thread, however much else the machine does."""
    events = trace["traceEvents"]
    threads = {
        (one["pid"], one["tid"])
        for one in events
        if one.get("name") == "thread_name" and one["args"].get("name") == "CrRendererMain"
    }
    return [
        one["tdur"] / 1000
        for one in events
        if one.get("tdur") and one["name"].endswith("RunTask") and (one["pid"], one["tid"]) in threads
    ]


def load(desk: Desk, seconds: float, callers: int) -> Iterator[str]:
    """The API under bounded load: requests a second, 99th percentile, errors."""
    url = f"http://127.0.0.1:{desk.settings.desk.listen_port}"
    paths = {
        "preview": lambda n: f"/v1/batches/{BATCH}/images/{n % 3000}/preview.jpg",
        "page": lambda n: f"/v1/results?batch={BATCH}&limit=50&q=probability:%5B0.{n % 9} TO 1%5D",
    }
    for what, path in paths.items():
        with httpx.Client(base_url=url, timeout=30) as client:
            client.get(f"/enter?link={Sessions(desk.redis, 3600).link('load')}")
            ends = time.perf_counter() + seconds

            def call(
                first: int, client: Any = client, path: Any = path, ends: float = ends
            ) -> list[tuple[float, int]]:
                found = []
                while time.perf_counter() < ends:
                    began = time.perf_counter()
                    status = client.get(path(first + 97 * len(found))).status_code
                    found.append((time.perf_counter() - began, status))
                return found

            with ThreadPoolExecutor(callers) as pool:
                calls = [one for some in pool.map(call, range(callers)) for one in some]
        times = [1000 * took for took, _ in calls]
        failed = sum(status >= 500 for _, status in calls)
        yield (
            f"load_{what}: callers={callers} requests_a_second={len(calls) / seconds:.0f} "
            f"median_ms={statistics.median(times):.0f} p99_ms={np.percentile(times, 99):.0f} errors_5xx={failed}"
        )


def _until(page: Page, condition: str, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not page.evaluate(f"() => Boolean({condition})"):
        if time.monotonic() > ends:
            raise TimeoutError(condition)
        time.sleep(0.01)


def _wait(url: str) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(url)
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(url)


def main() -> None:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument(
        "--embedding", type=int, default=576, help="numbers of an embedding: what a table is large by"
    )
    parser.add_argument("--scroll", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--callers", type=int, default=8)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="desk-") as folder,
        served(Path(folder), options.images, options.embedding) as (desk, rss),
    ):
        print(f"images={options.images} desk_rss_mb={rss.memory_info().rss / 1e6:.0f}", flush=True)
        for line in browse(desk, options.scroll, rss):
            print(line, flush=True)
        for line in load(desk, options.seconds, options.callers):
            print(line, flush=True)
        print(f"desk_rss_mb_at_the_end={rss.memory_info().rss / 1e6:.0f}", flush=True)


if __name__ == "__main__":
    main()
