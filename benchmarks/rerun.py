"""The second run of a batch against the first: time, requests to S3 by images, and work for Triton.

The images lie in the stack's own object store and are submitted where they lie, as an archive is. Requests are
counted by the programs that make them (``dermbatch_store_requests_total``), inferences by Triton itself.

    python -m benchmarks.rerun [--images N] [--workers N]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from benchmarks.children import Watch, of_part
from dermbatch.ledger import Ledger
from dermbatch.models.repository import default_model_repository
from dermbatch.phantoms.samples import write_samples
from dermbatch.records.asked import Order
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from orchestrator.cli.tables.progress import follow
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.planner import plan
from orchestrator.stack.stack import Stack

console = Console(highlight=False)


@dataclass(frozen=True)
class Counters:
    """What the programs say of themselves so far."""

    worker: dict[str, float]
    orchestrator: dict[str, float]
    inferences: float

    def since(self, before: Counters) -> Counters:
        """The difference."""
        return Counters(
            {name: count - before.worker.get(name, 0) for name, count in self.worker.items()},
            {name: count - before.orchestrator.get(name, 0) for name, count in self.orchestrator.items()},
            self.inferences - before.inferences,
        )


def look(stack: Stack) -> Counters:
    """Scrape worker, orchestrator and Triton."""
    ports = stack.ports
    return Counters(
        scraped(ports["worker"], "dermbatch_store_requests", "operation"),
        scraped(ports["orchestrator"], "dermbatch_store_requests", "operation"),
        sum(scraped(ports["triton-metrics"], "nv_inference_count", "model").values()),
    )


def scraped(port: int, family: str, label: str) -> dict[str, float]:
    """Values of a counter by one of its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    found: dict[str, float] = {}
    for metric in text_string_to_metric_families(text):
        if metric.name == family:
            for sample in metric.samples:
                if sample.name.endswith(("_total", "_count")):
                    found[sample.labels[label]] = found.get(sample.labels[label], 0) + sample.value
    return found


def run(stack: Stack, name: str) -> tuple[float, Counters]:
    """One batch of everything under the prefix: seconds from opening to closed, and what was counted meanwhile."""
    store, ledger = ObjectStore(stack.settings.store), Ledger(stack.settings.redis, stack.settings.ledger)
    intake = Intake(stack.settings, store, in_place=True)
    order = Order(models=stack.settings.models)
    batch = plan(name, order, intake.walk([f"s3://{store.incoming_bucket}/archive/"]), store)
    before, started = look(stack), time.monotonic()
    ledger.batches.open(batch)
    ledger.slots.wake()
    summary = follow(ledger, store, batch, console)
    seconds = time.monotonic() - started
    if summary.done != batch.images:
        raise SystemExit(f"{summary.failed} images failed: {summary.reasons}")
    return seconds, look(stack).since(before)


def main() -> None:
    """Run both and print the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--workers", type=int, default=6)
    given = parser.parse_args()
    asked = Settings()
    asked = asked.model_copy(update={"worker": asked.worker.model_copy(update={"concurrency": given.workers})})
    with tempfile.TemporaryDirectory() as folder:
        paths = write_samples(Path(folder) / "images", given.images, truth=Path(folder) / "truth")
        with (
            Stack(Path(folder) / "stack", asked, model_repository=default_model_repository()) as stack,
            Watch(*map(of_part, stack.parts)),
        ):
            store = ObjectStore(stack.settings.store)
            for path in paths:
                store.put(
                    f"archive/{path.name}",
                    path.read_bytes(),
                    "application/octet-stream",
                    bucket=store.incoming_bucket,
                )
            runs = [run(stack, name) for name in ("first", "second")]
    table = Table("", "first run", "second run", title=f"{given.images} phantoms", title_justify="left")
    rows = [(f"{seconds:.1f} s", counted) for seconds, counted in runs]
    table.add_row("time", *(text for text, _ in rows))
    for who in ("worker", "orchestrator"):
        table.add_row(
            f"S3 requests an image, {who}",
            *(f"{sum(getattr(counted, who).values()) / given.images:.2f}" for _, counted in rows),
        )
    table.add_row("inferences by Triton", *(f"{counted.inferences:.0f}" for _, counted in rows))
    table.add_row("times as fast", "", f"{runs[0][0] / runs[1][0]:.1f}")
    console.print(table)
    print(json.dumps({"images": given.images, "seconds": [round(seconds, 2) for seconds, _ in runs]}))


if __name__ == "__main__":
    main()
