"""The course of a simulation, drawn."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.scaling.options import NodePrices
from benchmarks.scaling.outcome import Moment, SimulationOutcome

_POINTS = 1500  # more than a picture shows


def plot(outcome: SimulationOutcome, prices: NodePrices, path: Path) -> None:
    """Draw what waits, what runs, and how long live images waited.

    Args:
        outcome: What came of it.
        prices: For the title's cost.
        path: A PNG or SVG file to write.
    """
    mpl.rcParams["svg.hashsalt"] = "dermbatch"  # the same picture is the same file
    moments = outcome.moments[:: max(1, len(outcome.moments) // _POINTS)]
    hours = [moment.time / 3600 for moment in moments]
    figure = Figure(figsize=(9, 7), layout="constrained")
    waiting, pods, waits = figure.subplots(3, 1)
    _draw_waiting(waiting, hours, moments)
    for name in moments[0].pods:
        pods.step(hours, [moment.pods[name] for moment in moments], where="post", label=name)
    pods.step(hours, [moment.nodes["gpu"] for moment in moments], ":", where="post", label="GPU nodes paid for")
    pods.set_ylabel("ready replicas")
    _draw_waits(waits, outcome)
    for axes in (waiting, pods):
        axes.set_xlabel("hours")
        axes.legend(fontsize="small")
    figures = outcome.figures(prices)
    figure.suptitle(
        f"{outcome.trace}: {figures['images']:,.0f} images in {figures['hours_to_finish']:.1f} h, "
        f"{figures['gpu_hours']:.1f} GPU-hours, cost {figures['cost']:,.0f}"
    )
    figure.savefig(path, dpi=90, metadata={"Software": None} if path.suffix == ".png" else {"Date": None})


def _draw_waiting(axes: Axes, hours: list[float], moments: list[Moment]) -> None:
    for lane, style in (("live", "-"), ("bulk", "--")):
        axes.step(hours, [moment.waiting[lane] for moment in moments], style, where="post", label=lane)  # type: ignore[index]
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("images that wait")


def _draw_waits(axes: Axes, outcome: SimulationOutcome) -> None:
    """Share of live images that waited for longer than so many seconds."""
    for name, times in (("for a worker", outcome.waits["live"]), ("for the result", outcome.took)):
        seconds = np.maximum(np.sort(times), 0.1)
        axes.step(seconds, 1 - np.arange(len(seconds)) / max(1, len(seconds)), where="post", label=name)
    axes.axvline(30, color="grey", linestyle=":")
    axes.axhline(0.01, color="grey", linestyle=":", label="objective: 1 % for a worker after 30 s")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(1e-4, 1.2)
    axes.set_xlabel("seconds")
    axes.set_ylabel("live images\nthat waited longer")
    axes.legend(fontsize="small")
