"""What it costs to decode pictures in another process: CPU and clock, ms a picture, here and there in turns.

``python -m benchmarks.detour FOLDER ... [--pictures N] [--rounds N]``: medians of the rounds, by folder.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from dermbatch.bounded.reader import Reader
from dermbatch.images.imagefile import MODULES, read_image
from dermbatch.images.pixels import SourceImage
from dermbatch.settings import Settings

Read = Callable[[bytes], SourceImage]


def spent() -> float:
    """Seconds of a processor that this process and those below it have had."""
    me = psutil.Process()
    times = [one.cpu_times() for one in (me, *me.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def measured(read: Read, bodies: list[bytes]) -> tuple[float, float]:
    """Milliseconds a picture, of a processor and on the clock; each picture is looked at once."""
    cpu, clock = spent(), time.perf_counter()
    for body in bodies:
        read(body).pixels.max()
    count = len(bodies) / 1000
    return (spent() - cpu) / count, (time.perf_counter() - clock) / count


def main() -> None:
    """Print a line for each folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    settings = Settings()
    reader = Reader(settings.reading.limits, MODULES)
    most = settings.worker.max_pixels
    sides: dict[str, Read] = {
        "here": lambda body: read_image(body, max_pixels=most),
        "there": lambda body: reader.run(read_image, body, max_pixels=most),
    }
    for folder in asked.folders:
        bodies = [path.read_bytes() for path in sorted(folder.iterdir())[: asked.pictures]]
        found: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for _ in range(asked.rounds):
            for side, read in sides.items():
                found[side].append(measured(read, bodies))
        figures = [
            f"{side} {statistics.median(cpu for cpu, _ in rounds):.2f} ms CPU, "
            f"{statistics.median(clock for _, clock in rounds):.2f} ms"
            for side, rounds in found.items()
        ]
        print(f"{folder}: {len(bodies)} pictures; {'; '.join(figures)}")
    reader.close()


if __name__ == "__main__":
    main()
