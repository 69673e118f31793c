"""How many images a second one GPU computes, by stage, batch size and precision, and how much memory that takes.

    python -m benchmarks.gpu [--seconds 0.4] [--json FILE]

The default networks alone, of any weights, in PyTorch in channels-last layout: the pictures lie on the GPU and
nothing comes back, so this is what a Triton can at most reach there. Without a GPU it measures the processor.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.classify.lite import LiteClassifier
from lesionnets.nets.enhance.espcn import Espcn
from lesionnets.nets.purify.purifier import Purifier
from lesionnets.nets.segment.unet_lite import UNetLite

BATCHES = (1, 8, 32, 128)
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SIDES = {"purify": 512, "segment": 256, "enhance": 160, "classify": 224}
"""Side of what a network is given, pixels; for enhance a tile."""


def networks() -> dict[str, Callable[[Tensor], Any]]:
    """The default network of every stage, as a function of a batch of pictures."""
    segment, classify = UNetLite(size=256), LiteClassifier(size=224)

    def both_views(images: Tensor) -> Any:
        sides = [square.pixels(classify.size) for square in classify.squares]
        views = [functional.interpolate(images, size=side) for side in sides]
        return [classify(view, view[:, :1]) for view in views]

    parts: dict[str, nn.Module] = {"purify": Purifier(), "segment": segment, "enhance": Espcn()}
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for part in (*parts.values(), classify):
        part.eval().to(where).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return {**parts, "classify": both_views}


def measure(
    run: Callable[[Tensor], Any], images: Tensor, precision: torch.dtype, seconds: float
) -> dict[str, float]:
    """Images a second, and MiB of memory at the peak."""
    on_gpu = images.device.type == "cuda"
    settled = torch.cuda.synchronize if on_gpu else (lambda: None)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode(), torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
        for _ in range(3):
            run(images)
        settled()
        started, rounds = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            run(images)
            rounds += 1
            if rounds % 8 == 0:
                settled()
        settled()
    rate = rounds * len(images) / (time.perf_counter() - started)
    return {
        "images_per_second": round(rate, 1),
        "mib": torch.cuda.max_memory_allocated() // 2**20 if on_gpu else 0,
    }


def rows(seconds: float, batches: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """A row for every stage, precision and batch size; those that do not fit the memory are left out."""
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for stage, run in networks().items():
        for name, precision in PRECISIONS.items():
            for batch in batches:
                images = torch.rand(batch, 3, SIDES[stage], SIDES[stage], device=where)
                images = images.to(memory_format=torch.channels_last)
                try:
                    measured = measure(run, images, precision, seconds)
                except torch.cuda.OutOfMemoryError:
                    continue
                yield {"stage": stage, "precision": name, "batch": batch, **measured}


def main() -> None:
    """Print a row each, and write all of them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.4, help="of every row")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "processor"
    found = []
    for row in rows(asked.seconds, tuple(asked.batches)):
        found.append(row)
        print(*row.values(), flush=True)
        if asked.json:
            asked.json.write_text(
                json.dumps({"device": device, "torch": torch.__version__, "rows": found}, indent=1)
            )


if __name__ == "__main__":
    main()
