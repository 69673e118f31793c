"""The product's side: one batch through the embedded stack, as ``dermbatch run`` has it, start and stop apart."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.children import Watch, of_part
from benchmarks.comparison.meter import Meter
from benchmarks.comparison.rivals import cores
from benchmarks.comparison.work import Given
from benchmarks.rerun import scraped
from dermbatch.ledger import Ledger
from dermbatch.phantoms.samples import write_samples
from dermbatch.records.asked import Order
from dermbatch.store import ObjectStore
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.planner import plan
from orchestrator.reporting.fetch import Fetching
from orchestrator.reporting.progress import wait
from orchestrator.stack.stack import Stack

REQUESTS = "dermbatch_store_requests"


@dataclass(frozen=True)
class Round:
    """One batch of the product.

    Attributes:
        meter: From the first look at the folder until all results lie in another.
        requests: To the object store by worker and orchestrator, an image.
        started: Seconds that the stack took to start.
        stopped: And to stop.
    """

    meter: Meter
    requests: float
    started: float
    stopped: float


def product(paths: Sequence[Path], given: Given, folder: Path) -> Round:
    """From the images in a folder to the results in another; warmed up before."""
    begun = time.monotonic()
    stack = Stack(folder / "home", given.settings, model_repository=given.repository)
    with stack, Watch(*map(of_part, stack.parts)):
        started = time.monotonic() - begun
        # As many images as the chain is warmed up with, and others than those that count: known ones cost nothing.
        _batch(stack, "warm", write_samples(folder / "samples", 2 * cores(), seed=11), folder / "warm")
        before = _requests(stack)
        with Meter({part.name: part.pid or 0 for part in stack.parts}) as meter:
            _batch(stack, "all", paths, folder / "out")
        requests = (_requests(stack) - before) / len(paths)
        ended = time.monotonic()
    return Round(meter, requests, started, time.monotonic() - ended)


def _batch(stack: Stack, name: str, paths: Sequence[Path], out: Path) -> None:
    settings = stack.settings
    store, ledger = ObjectStore(settings.store), Ledger(settings.redis, settings.ledger)
    intake = Intake(settings, None, in_place=False, local=True)
    batch = plan(name, Order(models=settings.models), intake.walk([str(path) for path in paths]), store)
    ledger.batches.open(batch)
    ledger.slots.wake()
    fetching = Fetching(store, name, out, file_of=stack.file_of)
    counts = wait(
        ledger, store, batch.name, lambda state: fetching.early(state.next_index if state is not None else 0)
    )
    if counts.done != len(paths):
        raise SystemExit(f"{counts.failed} of {len(paths)} images failed: the figures would mean nothing")
    fetching.finish()


def _requests(stack: Stack) -> float:
    ports = (stack.ports["worker"], stack.ports["orchestrator"])
    return sum(sum(scraped(port, REQUESTS, "operation").values()) for port in ports)
