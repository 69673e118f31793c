"""What came of a simulation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from rich.table import Table

from benchmarks.scaling.options import NodePrices
from dermbatch.records.asked import Lane

LONG = 180.0
"""Seconds without any Triton after which images count as waiting, and none gets on (docs/batches.md, Retries)."""


@dataclass(frozen=True)
class Moment:
    """How it stood when scaling looked.

    Attributes:
        time: Seconds.
        waiting: Images of each lane that no worker has.
        pods: Ready ones of each fleet.
        nodes: Paid for, of each pool.
    """

    time: float
    waiting: dict[Lane, int]
    pods: dict[str, int]
    nodes: dict[str, int]


@dataclass
class SimulationOutcome:
    """Of one simulation; times in seconds.

    Attributes:
        trace: What was simulated.
        finished: Images with an outcome, of each lane.
        last: When a lane had its last outcome.
        waits: Of each image (live), or of each job (bulk), for a worker slot, the first time.
        took: Of each live image, from its arrival to its outcome.
        gpu_hours, cpu_hours: Of nodes, from order to return.
        busy_hours: Of them in which Triton computed.
        image_seconds: Integral of the images inside over time (Little's law).
        dark: Longest time in which requests waited and there was no Triton at all.
        moments: The course.
    """

    trace: str
    finished: dict[Lane, int] = field(default_factory=lambda: {"live": 0, "bulk": 0})
    last: dict[Lane, float] = field(default_factory=lambda: {"live": 0.0, "bulk": 0.0})
    waits: dict[Lane, list[float]] = field(default_factory=lambda: {"live": [], "bulk": []})
    took: list[float] = field(default_factory=list)
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    busy_hours: float = 0.0
    image_seconds: float = 0.0
    dark: float = 0.0
    moments: list[Moment] = field(default_factory=list)

    def waited(self, lane: Lane, seconds: float) -> None:
        """An image was taken for the first time."""
        self.waits[lane].append(seconds)

    def finish(self, lane: Lane, images: int, now: float) -> None:
        """Images have their outcome."""
        self.finished[lane] += images
        self.last[lane] = now

    def wait(self, percent: float) -> float:
        """Percentile of the live images' waiting times; 0 where there were none."""
        return float(np.percentile(self.waits["live"], percent)) if self.waits["live"] else 0.0

    def done_after(self, percent: float) -> float:
        """Percentile of the live images' times from arrival to outcome; 0 where there were none."""
        return float(np.percentile(self.took, percent)) if self.took else 0.0

    def late(self, seconds: float = 30.0) -> float:
        """Share of the live images that waited for longer."""
        return float(np.mean(np.array(self.waits["live"]) > seconds)) if self.waits["live"] else 0.0

    def cost(self, prices: NodePrices) -> float:
        """Of all nodes."""
        return self.gpu_hours * prices.gpu_node + self.cpu_hours * prices.cpu_node

    def figures(self, prices: NodePrices) -> dict[str, float]:
        """All of it by name; hours, seconds (``_s``), shares, images."""
        images = sum(self.finished.values())
        return {
            "images": images,
            "hours_to_finish": max(self.last.values()) / 3600,
            "bulk_hours_to_finish": self.last["bulk"] / 3600,
            "gpu_hours": self.gpu_hours,
            "gpu_busy_share": self.busy_hours / self.gpu_hours if self.gpu_hours else 0.0,
            "cpu_node_hours": self.cpu_hours,
            "cost": self.cost(prices),
            "cost_of_1000_images": self.cost(prices) / images * 1000 if images else 0.0,
            "live_wait_p50_s": self.wait(50),
            "live_wait_p99_s": self.wait(99),
            "live_wait_longest_s": self.wait(100),
            "live_later_than_30_s": self.late(),
            "live_done_p50_s": self.done_after(50),
            "live_done_p99_s": self.done_after(99),
            "longest_without_triton_s": self.dark,
        }

    def table(self, prices: NodePrices) -> Table:
        """For people."""
        table = Table("figure", "value", title=self.trace)
        for name, value in self.figures(prices).items():
            table.add_row(name, f"{value:,.0f}" if name == "images" else f"{value:,.4g}")
        return table
