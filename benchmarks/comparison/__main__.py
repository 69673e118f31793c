"""Images/s beside what users would write themselves, in one go and in turns.

- **product**: a batch through the embedded stack, from the images in a folder to the results in another;
- **chain**: Celery with ONNX Runtime in its workers, the same stages, files, PNG encoder, Valkey and object store,
  but no ledger, no report: from the first image put into the store to the last record;
- **ray**: Ray Data with fused actors that do the same, where ``--ray`` names a Python that has it;
- **limit**: bare loops over decoded arrays, nothing read or written: what the models allow.

Each round starts all servers afresh; start and stop are told apart, and each side is warmed up before it counts.
Last line: for each set ``name chain=… ray=… limit=… busy=…``: images/s of the product over each rival's (medians
of the rounds), and the share of the processors that the product keeps busy.

    python -m benchmarks.comparison [--photographs DIR] [--small DIR] [--rounds N] [--ray PYTHON]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.comparison.meter import Meter
from benchmarks.comparison.product import Round, product
from benchmarks.comparison.rivals import celery_worker, chain, cores, limit, ray
from benchmarks.comparison.work import Given
from dermbatch.models.repository import default_model_repository
from dermbatch.phantoms.samples import write_samples
from dermbatch.settings import Engine, load
from orchestrator.cli.options import engined, for_folder, sized

console = Console(highlight=False)


@dataclass
class Set:
    """Images, and what was measured with them.

    Attributes:
        name: Of the set.
        paths: The images.
        product: Rounds of the product.
        chain: Of the chain.
        ray: Images/s, CPU seconds and bytes of Ray Data.
        limit: Images/s.
    """

    name: str
    paths: Sequence[Path]
    product: list[Round] = field(default_factory=list)
    chain: list[Meter] = field(default_factory=list)
    ray: list[tuple[float, float, float]] = field(default_factory=list)
    limit: list[float] = field(default_factory=list)

    def rates(self) -> dict[str, list[float]]:
        """Images/s of each side, by round."""
        count = len(self.paths)
        return {
            "product": [count / one.meter.seconds for one in self.product],
            "chain": [count / one.seconds for one in self.chain],
            "ray": [rate for rate, _, _ in self.ray],
            "limit": self.limit,
        }

    def last(self) -> str:
        """Its part of the last line."""
        medians = {side: statistics.median(rates) for side, rates in self.rates().items() if rates}
        ratios = " ".join(
            f"{side}={medians['product'] / medians[side]:.2f}" if side in medians else f"{side}=-"
            for side in ("chain", "ray", "limit")
        )
        busy = statistics.median(sum(one.meter.cpu.values()) / one.meter.seconds / cores() for one in self.product)
        return f"{self.name} {ratios} busy={busy:.2f}"

    def show(self) -> None:
        """Print its tables."""
        table = Table(self.name, "images/s", "rounds", "CPU ms an image", "peak MiB", box=None)
        for side, rates in self.rates().items():
            if rates:
                each = ", ".join(f"{rate:.2f}" for rate in rates)
                table.add_row(side, f"{statistics.median(rates):.2f}", each, *self._cost(side))
        console.print(table)
        for side, meters in (("product", [one.meter for one in self.product]), ("chain", self.chain)):
            spent = {name: statistics.median(m.cpu[name] for m in meters) for name in meters[0].cpu}
            told = (f"{name} {1000 * value / len(self.paths):.0f}" for name, value in spent.items())
            console.print(f"CPU ms an image, {side}: {', '.join(told)}")
        of = [
            statistics.median(getattr(one, what) for one in self.product)
            for what in ("started", "stopped", "requests")
        ]
        console.print("start {:.1f} s, stop {:.1f} s; requests to the object store an image {:.1f}\n".format(*of))

    def _cost(self, side: str) -> tuple[str, str]:
        meters = {"product": [one.meter for one in self.product], "chain": self.chain}.get(side, [])
        costs = [(sum(m.cpu.values()), float(m.peak)) for m in meters]
        if side == "ray":
            costs = [(cpu, peak) for _, cpu, peak in self.ray]
        if not costs:
            return "", ""
        cpu, peak = (statistics.median(values) for values in zip(*costs, strict=True))
        return f"{1000 * cpu / len(self.paths):.0f}", f"{peak / 2**20:.0f}"


def measure(sets: Sequence[Set], given: Given, folder: Path, rounds: int, python: Path | None) -> None:
    """Run all sides in turns."""
    for number in range(rounds):
        for one in sets:
            place = folder / f"{one.name}-{number}"
            one.product.append(product(one.paths, given, _made(place / "product")))
            one.chain.append(chain(one.paths, given, _made(place / "chain")))
            one.limit.append(limit(one.paths, given, _made(place / "limit")))
            if python is not None:
                found = ray(one.paths, given, _made(place / "ray"), python)
                one.ray.append((found["rate"], found["cpu"], found["peak"]))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def chosen(folder: Path, count: int) -> list[Path]:
    """Some images of a folder, always the same ones."""
    paths = sorted(path for path in folder.rglob("*.jpg"))
    return sorted(random.Random(0).sample(paths, min(count, len(paths))))


def main() -> None:
    """Measure and print; the last line is for machines."""
    if sys.argv[1:2] == ["--celery"]:
        celery_worker(Path(sys.argv[2]), sys.argv[3])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, help="folder of photographs as cameras make them")
    parser.add_argument("--small", type=Path, help="folder of small pictures, 600 x 450 or so")
    parser.add_argument(
        "--counts", type=int, nargs=3, default=(30, 24, 300), help="of photographs, phantoms, small"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=None, help="images at a time; as `dermbatch run` chooses")
    parser.add_argument(
        "--engine", type=Engine, choices=list(Engine), default=Engine.ONNXRUNTIME, help="of the product"
    )
    parser.add_argument("--ray", type=Path, help="a Python that has ray[data] and the product")
    parser.add_argument("--model-repository", type=Path, default=None)
    options = parser.parse_args()
    repository = options.model_repository or default_model_repository()
    with tempfile.TemporaryDirectory(prefix="dermbatch-comparison-") as place:
        folder = Path(place)
        photographs, phantoms, small = options.counts
        drawn = write_samples(folder / "phantoms", phantoms, truth=folder / "truth")
        sets = [Set("phantoms", drawn)]
        if options.photographs is not None:
            sets.insert(0, Set("photographs", chosen(options.photographs, photographs)))
        if options.small is not None:
            sets.append(Set("small", chosen(options.small, small)))
        settings = for_folder(sized(engined(load(), options.engine), options.workers))
        given = Given(settings, repository)
        measure(sets, given, folder, options.rounds, options.ray)
        for one in sets:
            one.show()
        print(" | ".join(one.last() for one in sets))


if __name__ == "__main__":
    main()
