"""Processor time of the four graphs an image, as workers run them, beside the graphs of another model repository.

Both sides process the same images in turns, in one process on one core: each stage gets what the stage before it
made on its own side, and enhancement as many strips as its side's lesion needs. Counted is the time inside ONNX
Runtime alone, and beside it all of a stage. Medians over rounds of each image, then the mean over images.

    git archive COMMIT model_repository | tar -x -C FORMER
    python -m benchmarks.graphs --former FORMER/model_repository --former-model purify=purify_unet
        --former-model segment=segment_mobilenet --former-model enhance=enhance_espcn
        --former-model classify=classify_mobilenet --photographs DIR [--count N] [--rounds N]

Last line: for each set ``name=RATIO``, what ships over the other.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
from rich.console import Console
from rich.table import Table

from benchmarks.comparison.__main__ import chosen
from dermbatch.models.repository import default_model_repository
from dermbatch.models.served import Array, ServedModel
from dermbatch.phantoms.samples import write_samples
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.settings import DEFAULT_MODELS, load
from dermbatch.stages import Stage
from workers.image.pictures import Pictures
from workers.image.steps import plan, run_step
from workers.inference.onnx import OnnxRuntime

console = Console(highlight=False)
Spent = dict[tuple[str, str], float]
"""Processor seconds by stage and part: ``graph``, ``stage``."""


class TimedRuntime(OnnxRuntime):
    """Counts the processor time inside ONNX Runtime."""

    def __init__(self, repository: Path) -> None:
        super().__init__(repository)
        self.spent = 0.0

    def infer(self, model: ServedModel, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """See the base class."""
        began = time.process_time()
        answer = super().infer(model, inputs, outputs)
        self.spent += time.process_time() - began
        return answer


class Side:
    """A repository, and what its graphs have taken of each image."""

    def __init__(self, repository: Path, models: Mapping[Stage, ModelChoice]) -> None:
        self.client, self._models = TimedRuntime(repository), dict(models)
        self.rounds: dict[Path, list[Spent]] = defaultdict(list)

    def process(self, path: Path, max_pixels: int) -> None:
        """Run all stages on an image."""
        pictures = Pictures(path.read_bytes, max_pixels, None, {})  # type: ignore[arg-type]
        order = Order(models=self._models)
        job = ImageJob(batch="b", index=0, name="", source="s3://b/0", order=order)
        spent: Spent = {}
        source = pictures.source
        for step in plan(job, self.client):
            self.client.spent, began = 0.0, time.process_time()
            run_step(step, pictures, source, self.client, None)  # type: ignore[arg-type]
            spent[step.stage, "stage"] = time.process_time() - began
            spent[step.stage, "graph"] = self.client.spent
        self.rounds[path].append(spent)

    def cost(self, paths: Sequence[Path], stage: str, part: str) -> float:
        """Milliseconds an image."""
        medians = (statistics.median(one[stage, part] for one in self.rounds[path]) for path in paths)
        return 1000 * statistics.fmean(medians)


def show(name: str, paths: Sequence[Path], former: Side, now: Side) -> float:
    """Print a set's table; the ratio of all graphs."""
    table = Table(f"{name}, ms an image", "graph: former", "now", "ratio", "stage: former", "now", box=None)
    sums = [0.0] * 4
    for stage in Stage:
        cells = [side.cost(paths, stage, part) for part in ("graph", "stage") for side in (former, now)]
        sums = [total + cell for total, cell in zip(sums, cells, strict=True)]
        table.add_row(stage, *_row(cells))
    table.add_row("all", *_row(sums))
    console.print(table)
    return sums[1] / sums[0]


def _row(cells: Sequence[float]) -> list[str]:
    told = [f"{value:.0f}" for value in cells]
    told.insert(2, f"{cells[1] / cells[0]:.2f}" if cells[0] else "-")
    return told


def main() -> None:
    """Measure and print; the last line is for machines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--former", type=Path, required=True, help="model repository beside which is measured")
    parser.add_argument("--former-model", action="append", default=[], metavar="STAGE=NAME")
    parser.add_argument("--now", type=Path, default=default_model_repository())
    parser.add_argument("--now-model", action="append", default=[], metavar="STAGE=NAME")
    parser.add_argument("--photographs", type=Path, help="folder of images as cameras made them")
    parser.add_argument("--count", type=int, default=12, help="images of each set")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    former, now = (
        Side(repository, DEFAULT_MODELS | _named(names))
        for repository, names in ((asked.former, asked.former_model), (asked.now, asked.now_model))
    )
    with tempfile.TemporaryDirectory() as folder:
        sets = {"phantoms": write_samples(Path(folder), asked.count)}
        if asked.photographs:
            sets["photographs"] = chosen(asked.photographs, asked.count)
        pixels = load().worker.max_pixels
        for side in (former, now):
            side.process(sets["phantoms"][0], pixels)  # graphs are loaded and warm
            side.rounds.clear()
        for _ in range(asked.rounds):
            for path in (path for paths in sets.values() for path in paths):
                for side in (former, now):
                    side.process(path, pixels)
        ratios = {name: show(name, paths, former, now) for name, paths in sets.items()}
    console.print(" ".join(f"{name}={ratio:.2f}" for name, ratio in ratios.items()))


def _named(names: Sequence[str]) -> dict[Stage, ModelChoice]:
    return {Stage(stage): ModelChoice(name=name) for stage, _, name in (one.partition("=") for one in names)}


if __name__ == "__main__":
    main()
