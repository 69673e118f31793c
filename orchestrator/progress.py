"""How a batch goes, for people at a terminal: a bar with images/s and time left, and the closing table."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
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

from dermbatch.errors import LedgerUnavailable, StackError
from dermbatch.ledger import Counts, Ledger
from dermbatch.records import Batch, FailureRecord, ResultRecord
from dermbatch.stages import ORDER

_LOOK_EVERY = 0.25
_LINE_EVERY = 10.0
_REASONS_SHOWN = 25


class _Rate(ProgressColumn):
    """Images a second since the batch began."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- images/s" if speed is None else f"{speed:.1f} images/s", style="progress.data.speed")


def follow(ledger: Ledger, batch: Batch, console: Console, check: Callable[[], None]) -> Counts:
    """Show progress until the batch is closed.

    Args:
        ledger: Knows the counts.
        batch: The batch.
        console: Where to write; a bar on a terminal, else a line every ten seconds.
        check: Called at every look; raises where it makes no sense to wait on.

    Returns:
        The final counts.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
    )
    started = said = time.monotonic()
    with Progress(
        *columns, console=console, speed_estimate_period=60, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(escape(batch.name), total=batch.images, failed="")
        while True:
            check()
            counts = _counts(ledger, batch)
            finished = counts.done + counts.failed
            failed = f"[red]{counts.failed} failed[/]" if counts.failed else ""
            progress.update(task, completed=finished, failed=failed)
            if counts.finished and batch.name not in ledger.open_batches():
                return counts
            if not console.is_terminal and time.monotonic() - said > _LINE_EVERY:
                said = time.monotonic()
                console.print(_line(counts, said - started), soft_wrap=True, highlight=False)
            time.sleep(_LOOK_EVERY)


def _counts(ledger: Ledger, batch: Batch) -> Counts:
    try:
        return ledger.counts(batch.name) or Counts(batch.images, 0, 0)
    except LedgerUnavailable as error:
        raise StackError(f"Redis is gone: {error}") from error


def _line(counts: Counts, seconds: float) -> str:
    finished = counts.done + counts.failed
    left = f"{(counts.images - finished) * seconds / finished:.0f} s left" if finished else "time left unknown"
    return f"{finished}/{counts.images} images, {finished / seconds:.1f} images/s, {left}, {counts.failed} failed"


def closing_table(
    batch: Batch, results: Iterable[ResultRecord], failures: Iterable[FailureRecord], seconds: float
) -> Table:
    """What became of a batch: outcomes, speed, mean time by stage, failures by reason."""
    done = 0
    spent: dict[str, float] = defaultdict(float)
    runs = Counter[str]()
    for record in results:
        done += 1
        for stage in record.stages:
            if stage not in record.cached:
                spent[stage] += record.seconds.get(stage, 0.0)
                runs[stage] += 1
    reasons = Counter(failure.reason for failure in failures)
    table = Table(title=f"Batch {escape(batch.name)}", title_justify="left", show_header=False, min_width=44)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("images", str(batch.images))
    table.add_row("results", f"[green]{done}[/]")
    failed = batch.images - done
    table.add_row("failed", f"[red]{failed}[/]" if failed else "0")
    for reason, count in reasons.most_common(_REASONS_SHOWN):
        table.add_row(f"  {escape(reason)}", str(count))
    if others := reasons.total() - sum(count for _, count in reasons.most_common(_REASONS_SHOWN)):
        table.add_row("  other reasons", str(others))
    if batch.skipped:
        table.add_row("other files passed over", str(batch.skipped))
    table.add_row("time", f"{seconds:.1f} s")
    table.add_row("speed", f"{batch.images / seconds:.2f} images/s")
    for stage in ORDER:
        if runs[stage]:
            table.add_row(f"  {stage}, mean", f"{1000 * spent[stage] / runs[stage]:.0f} ms")
    reused = done * len(batch.stages) - runs.total()
    if reused:
        table.add_row("stage results reused", str(reused))
    return table


def where(console: Console, folder: Path) -> None:
    """Tell where the results are."""
    console.print(f"Report: {folder / 'report.html'}", soft_wrap=True, highlight=False, markup=False)
