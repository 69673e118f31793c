"""How a batch goes, for people at a terminal: a bar with images/s and time left, and the closing table."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from dermbatch.ledger import BatchState, Ledger
from dermbatch.records.asked import Batch, BatchSummary
from dermbatch.stages import ORDER
from dermbatch.store import ObjectStore
from orchestrator.reporting.progress import wait

_LINE_EVERY = 10.0
_REASONS_SHOWN = 25


class _Rate(ProgressColumn):
    """Images a second since the batch began."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- images/s" if speed is None else f"{speed:.1f} images/s", style="progress.data.speed")


def follow(
    ledger: Ledger,
    store: ObjectStore,
    batch: Batch,
    console: Console,
    told: Callable[[BatchState | None], None] = lambda state: None,
) -> BatchSummary:
    """Show progress until the batch is closed: its summary is in the store.

    Args:
        ledger: Knows how the batch stands.
        store: Holds the summary in the end.
        batch: The batch.
        console: Where to write; a bar on a terminal, else a line every ten seconds.
        told: Called at every look with how the batch stands, or none where that is not known; raises where it
            makes no sense to wait on.

    Returns:
        The summary.

    Raises:
        StackError: As :func:`~orchestrator.reporting.progress.wait`.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )
    said = time.monotonic()
    with Progress(
        *columns, console=console, speed_estimate_period=60, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(escape(batch.name), total=batch.images, state="")

        def show(state: BatchState | None) -> None:
            nonlocal said
            told(state)
            if state is None:
                return
            progress.update(task, completed=state.done + state.failed, total=state.images, state=_said_of(state))
            if not console.is_terminal and time.monotonic() - said > _LINE_EVERY:
                said = time.monotonic()
                console.print(line(state), soft_wrap=True, highlight=False, markup=False)

        summary = wait(ledger, store, batch.name, show)
        progress.update(task, completed=summary.done + summary.failed)
    return summary


def _said_of(state: BatchState) -> str:
    """What the bar says of a batch besides its numbers, as rich's markup."""
    parts = []
    if state.state != "open":
        parts.append(f"[yellow]{state.state}: {escape(state.why)}[/]")
    elif state.finished:
        parts.append("writing the report")
    if state.failed:
        parts.append(f"[red]{state.failed} failed[/]")
    return ", ".join(parts)


def line(state: BatchState) -> str:
    """How a batch stands, in one line without markup."""
    finished = state.done + state.failed
    parts = [f"{finished}/{state.images} images", f"{state.rate:.1f} images/s"]
    parts.append(f"{duration(state.left / state.rate)} left" if state.rate > 0 else "time left unknown")
    parts.append(f"{state.failed} failed")
    if state.state != "open":
        parts.append(f"{state.state}: {state.why}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time for people: ``40 s``, ``3 min``, ``5 h 20 min``, ``2 d 3 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def closing_table(batch: Batch, summary: BatchSummary, seconds: float) -> Table:
    """What became of a batch: outcomes, speed, mean time by stage, failures by reason.

    Args:
        batch: The batch.
        summary: Its summary.
        seconds: How long the user waited.
    """
    table = Table(title=f"Batch {escape(batch.name)}", title_justify="left", show_header=False, min_width=44)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("images", str(summary.images))
    table.add_row("results", f"[green]{summary.done}[/]")
    table.add_row("failed", f"[red]{summary.failed}[/]" if summary.failed else "0")
    reasons = Counter(summary.reasons).most_common()
    for reason, count in reasons[:_REASONS_SHOWN]:
        table.add_row(f"  {escape(reason)}", str(count))
    if others := sum(count for _, count in reasons[_REASONS_SHOWN:]):
        table.add_row("  other reasons", str(others))
    if not_run := summary.images - summary.done - summary.failed:
        table.add_row("not run", str(not_run))
    if batch.order.dicom:
        table.add_row("with DICOM objects", str(summary.done - summary.without_dicom))
        table.add_row("left out: no DICOM source", str(summary.without_dicom))
    if batch.duplicates:
        table.add_row("duplicates", str(batch.duplicates))
    if batch.skipped:
        table.add_row("other files passed over", str(batch.skipped))
    if batch.sidecars:
        table.add_row("  hidden files and systems' own", str(batch.sidecars))
    if batch.own_results:
        table.add_row("  Dermbatch's own results", str(batch.own_results))
    table.add_row("time", f"{seconds:.1f} s")
    table.add_row("speed", f"{(summary.done + summary.failed) / max(seconds, 1e-3):.2f} images/s")
    for stage in ORDER:
        if stage in summary.stage_seconds:
            table.add_row(f"  {stage}, mean", f"{1000 * summary.stage_seconds[stage]:.0f} ms")
    reused = summary.done * len(batch.order.stages) - sum(summary.stage_runs.values())
    if reused:
        table.add_row("stage results reused", str(reused))
    return table


def where(console: Console, folder: Path) -> None:
    """Tell where the results are."""
    console.print(f"Report: {folder / 'report.html'}", soft_wrap=True, highlight=False, markup=False)
