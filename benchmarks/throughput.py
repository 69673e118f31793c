"""Images/s of the whole against the raw ceiling, and the CPU time an image costs outside Triton.

The ceiling is what Triton itself allows: the very requests that the stages make of these images, taken down once,
are sent again from bare loops in as many processes as the worker has, on arrays that lie decoded in memory.
The whole is what a user waits for: inputs read, planned, queued, decoded, processed, written, reported and fetched
into a folder.

Both run in turns against the same running stack, so that what else the machine does strikes both.

    python -m benchmarks.throughput [--images DIR] [--count N] [--rounds N] [--workers N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.children import Watch, of_part, spawned
from dermbatch.images.imagefile import read_image
from dermbatch.ledger import Ledger
from dermbatch.models.repository import default_model_repository
from dermbatch.models.served import Array, ServedModel
from dermbatch.phantoms.samples import write_samples
from dermbatch.records.asked import ImageJob, Order
from dermbatch.records.outcome import ResultRecord
from dermbatch.settings import Settings, TritonSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.batches.outcomes import outcomes
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.planner import plan
from orchestrator.reporting.fetch import fetch
from orchestrator.reporting.progress import wait
from orchestrator.stack.stack import Stack
from workers.image.pictures import Pictures
from workers.image.steps import plan as plan_steps
from workers.image.steps import run_step
from workers.triton.client import TritonClient

console = Console(highlight=False)


@dataclass(frozen=True)
class Call:
    """One request as a stage made it."""

    model: ServedModel
    items: Sequence[Mapping[str, Array]]
    outputs: Sequence[str]


@dataclass
class Recorder:
    """A Triton client that takes down what it is asked."""

    client: TritonClient
    calls: list[Call] = field(default_factory=list)

    def model(self, stage: Stage, choice: object) -> ServedModel:
        return self.client.model(stage, choice)  # type: ignore[arg-type]

    def infer(self, model: ServedModel, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        return self.infer_many(model, [inputs], outputs)[0]

    def infer_many(
        self, model: ServedModel, items: Sequence[Mapping[str, Array]], outputs: Sequence[str]
    ) -> list[dict[str, Array]]:
        self.calls.append(Call(model, items, outputs))
        return self.client.infer_many(model, items, outputs)


def take_down(path: Path, settings: Settings, client: TritonClient) -> list[Call]:
    """The requests that the stages make of one image."""
    recorder = Recorder(client)
    job = ImageJob(batch="b", index=0, name="", source="s3://b/0", order=Order(models=settings.models))
    pictures = Pictures(path.read_bytes, settings.worker.max_pixels, None, {})  # type: ignore[arg-type]
    source = read_image(path.read_bytes(), max_pixels=settings.worker.max_pixels)
    for step in plan_steps(job, client):
        run_step(step, pictures, source, recorder)  # type: ignore[arg-type]
    return recorder.calls


def replay(paths: list[Path], settings: TritonSettings, everything: str, barrier: Barrier, times: object) -> None:
    """One process of the ceiling: prepare, wait for the others, send everything, tell how long it took."""
    client = TritonClient(settings)
    work = [take_down(path, Settings.model_validate_json(everything), client) for path in paths]
    barrier.wait()
    start = time.monotonic()
    for calls in work:
        for call in calls:
            client.infer_many(call.model, call.items, call.outputs)
    times.put((start, time.monotonic()))  # type: ignore[attr-defined]


def ceiling(paths: list[Path], settings: Settings, log: Path) -> float:
    """Images/s of bare loops."""
    context = multiprocessing.get_context("spawn")
    count = min(settings.worker.concurrency, len(paths))
    barrier, times = context.Barrier(count), context.Queue()
    # Large and small images are dealt out evenly, so that no loop is left alone at the end.
    dealt = sorted(paths, key=lambda path: path.stat().st_size, reverse=True)
    plain = settings.model_dump_json(exclude={"store", "redis"})
    with Watch() as watch:
        for n in range(count):
            shared = (dealt[n::count], settings.triton, plain, barrier, times)
            watch.add(spawned(f"ceiling-{n}", log, replay, *shared))
        spans = [times.get() for _ in range(count)]
    return len(paths) / (max(end for _, end in spans) - min(start for start, _ in spans))


@dataclass(frozen=True)
class Whole:
    """One run of the whole."""

    rate: float
    phases: dict[str, float]
    cpu: dict[str, float]
    steps: Counter[str]


def whole(paths: list[Path], stack: Stack, name: str, folder: Path) -> Whole:
    """Run a batch as ``dermbatch run`` does, and see where CPU time goes."""
    settings = stack.settings
    store, ledger = ObjectStore(settings.store), Ledger(settings.redis, settings.ledger)
    store.delete_prefix(store.bucket, "images/")  # else the second round would find all done
    before = cpu_seconds(stack)
    start = time.monotonic()
    intake = Intake(settings, None, in_place=False)
    batch = plan(name, Order(models=settings.models), intake.walk([str(path) for path in paths]), store)
    planned = time.monotonic()
    ledger.batches.open(batch)
    counts = wait(ledger, store, batch.name)
    closed = time.monotonic()
    fetch(store, name, folder, file_of=stack.file_of)
    end = time.monotonic()
    after = cpu_seconds(stack)
    if counts.done != len(paths):
        raise SystemExit(f"{counts.failed} of {len(paths)} images failed: the figures would mean nothing")
    steps: Counter[str] = Counter()
    recorded = 0.0
    for outcome in outcomes(store, batch):
        if isinstance(outcome.record, ResultRecord):  # as all are
            steps.update(spent(outcome.record))
            recorded = max(recorded, outcome.record.finished.timestamp())
    busy = recorded - batch.created.timestamp()
    phases = {"plan": planned - start, "process": busy, "report": closed - planned - busy, "fetch": end - closed}
    cpu = {part: after[part] - before[part] for part in after}
    return Whole(len(paths) / (end - start), phases, cpu, steps)


def spent(record: ResultRecord) -> dict[str, float]:
    """Wall seconds of one image by step, and what is between the steps."""
    total = (record.finished - record.started).total_seconds()
    return {**record.seconds, "total": total}


def cpu_seconds(stack: Stack) -> dict[str, float]:
    """CPU seconds used so far by each part with all its processes, and by this one."""
    used = {"this command": sum(psutil.Process().cpu_times()[:2])}
    for part in stack.parts:
        root = psutil.Process(part.pid)
        used[part.name] = sum(sum(process.cpu_times()[:2]) for process in [root, *root.children(recursive=True)])
    return used


def tables(ceilings: list[float], wholes: list[Whole], images: int) -> None:
    """Print the figures."""
    top, rate = statistics.median(ceilings), statistics.median(run.rate for run in wholes)
    console.print(f"ceiling   {top:.2f} images/s  ({', '.join(f'{value:.2f}' for value in ceilings)})")
    console.print(f"whole     {rate:.2f} images/s  ({', '.join(f'{run.rate:.2f}' for run in wholes)})")
    phases = {name: statistics.median(run.phases[name] for run in wholes) for name in wholes[0].phases}
    console.print("seconds   " + ", ".join(f"{name} {value:.2f}" for name, value in phases.items()))
    cpu = {part: statistics.median(run.cpu[part] for run in wholes) for part in wholes[0].cpu}
    outside = sum(value for part, value in cpu.items() if part != "triton")
    table = Table("CPU", "ms an image", box=None)
    for part, value in sorted(cpu.items(), key=lambda pair: -pair[1]):
        table.add_row(part, f"{1000 * value / images:.1f}")
    table.add_row("outside Triton", f"{1000 * outside / images:.1f}")
    console.print(table)
    table = Table("step of the worker (wall)", "ms an image", box=None)
    for step in wholes[0].steps:
        value = statistics.median(run.steps[step] for run in wholes)
        table.add_row(step, f"{1000 * value / images:.1f}")
    console.print(table)
    console.print(f"images={images} ceiling={top:.3f} whole={rate:.3f} ratio={rate / top:.3f}")


def main() -> None:
    """Measure and print; the last line has the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of photographs; phantoms are drawn if not given")
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=(os.cpu_count() or 2) + 4)
    parser.add_argument("--model-repository", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dermbatch-bench-") as place:
        folder = Path(place)
        if options.images is None:
            write_samples(folder / "images", options.count, truth=folder / "truth")
        paths = sorted(p for p in (options.images or folder / "images").iterdir() if p.is_file())[: options.count]
        settings = Settings()
        settings = settings.model_copy(
            update={"worker": settings.worker.model_copy(update={"concurrency": options.workers})}
        )
        repository = options.model_repository or default_model_repository()
        ceilings: list[float] = []
        wholes: list[Whole] = []
        with (
            Stack(folder / "home", settings, model_repository=repository) as stack,
            Watch(*map(of_part, stack.parts)),
        ):
            whole(paths[: 2 * options.workers], stack, "warm-up", folder / "out")
            for number in range(options.rounds):
                ceilings.append(ceiling(paths, stack.settings, folder / "ceiling.log"))
                wholes.append(whole(paths, stack, f"round-{number}", folder / "out"))
        tables(ceilings, wholes, len(paths))


if __name__ == "__main__":
    main()
