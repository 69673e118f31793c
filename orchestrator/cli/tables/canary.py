"""How a canary's models agree with the results so far, for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from orchestrator.steering.canary import CanaryReport


def render(report: CanaryReport) -> Group:
    """The report as tables for a terminal."""
    canary = report.canary
    tried = ", ".join(f"{stage} {choice!s}" for stage, choice in canary.models.items())
    summary = Table.grid(padding=(0, 2))
    for what, value in (
        ("canary", escape(canary.name)),
        ("models tried", escape(tried)),
        ("share of live images", f"{canary.share:.0%}" if canary.share >= 0.01 else f"{canary.share:.2%}"),
        ("state", "running" if canary.stopped is None else f"stopped {canary.stopped:%Y-%m-%d %H:%M} UTC"),
        ("images", f"{report.images:,}"),
        ("failed", escape(", ".join(f"{reason} {n:,}" for reason, n in report.failures.items())) or "0"),
        ("Dice of the masks", f"mean {_figure(report.mean_dice)}, median {_figure(report.median_dice)}"),
        ("same diagnosis", f"{report.same_label:,} of {report.diagnosed:,}"),
        ("seconds an image", _figure(report.mean_seconds)),
    ):
        summary.add_row(what, value)
    return Group(summary, *([_bars(report)] if report.mean_dice is not None else []), *_cases(report))


def _bars(report: CanaryReport) -> Table:
    table = Table("Dice", "images", "", box=None, pad_edge=False)
    most = max(one.images for one in report.histogram)
    for one in report.histogram:
        bar = "█" * round(30 * one.images / most)
        table.add_row(f"{one.lower:.2f} to {one.upper:.2f}", f"{one.images:,}", bar)
    return table


def _cases(report: CanaryReport) -> Iterator[Table]:
    if report.changed_labels:
        table = Table("diagnosis changed", "images", box=None, pad_edge=False)
        for change, images in report.changed_labels.items():
            table.add_row(escape(change), f"{images:,}")
        yield table
    if report.worst:
        table = Table("Dice", "old", "new", "largest change", "least agreement", box=None, pad_edge=False)
        table.columns[-1].overflow = "fold"  # names must stay findable: none is cut
        for one in report.worst:
            labels = (one.old_label or "-", one.new_label or "-")
            where = f"{one.batch} #{one.index} {one.name}"
            table.add_row(_figure(one.dice), *map(escape, labels), _figure(one.probability_change), escape(where))
        yield table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
