"""The progress of a batch on a terminal: a bar with images/s and time left, and the closing table."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table

from dermbatch.ledger import BatchState, Ledger
from dermbatch.records.asked import Batch, BatchSummary
from dermbatch.stages import ORDER
from dermbatch.store import ObjectStore
from orchestrator.reporting.progress import wait

_LINE_EVERY = 10.0
_REASONS_SHOWN = 25
_BAR_FROM = 110
"""Width of a terminal from which there is room for a bar beside the numbers."""

_BAR = 30
_LEAST_NAME = 8


class Pace:
    """Outcomes a second over the last minute."""

    _SECONDS = 60.0

    def __init__(self) -> None:
        self._seen = deque[tuple[float, int]]()

    def note(self, finished: int, now: float) -> None:
        """Note how many are finished at this time."""
        self._seen.append((now, finished))
        while now - self._seen[0][0] > self._SECONDS and len(self._seen) > 2:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Outcomes a second; 0 if unknown."""
        (start, before), (end, now) = self._seen[0], self._seen[-1]
        return (now - before) / (end - start) if end > start else 0.0


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
        console: Where to write: on a terminal a single line, with a bar if there is room; else a line every 10 s.
        told: Called at every look with the state of the batch, or none if unknown; raises if waiting on makes no
            sense.

    Returns:
        The summary.

    Raises:
        StackError: As :func:`~orchestrator.reporting.progress.wait`.
    """
    printed, pace = time.monotonic(), Pace()
    numbers = TextColumn(
        "{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
    )
    bar = [BarColumn(_BAR)] if console.width >= _BAR_FROM else []
    room = console.width - (_BAR + 1 if bar else 0)
    with Progress(numbers, *bar, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=batch.images, text=f"{batch.name}: 0/{batch.images:,} images")

        def show(state: BatchState | None) -> None:
            nonlocal printed
            told(state)
            if state is None:
                return
            finished = state.done + state.failed
            pace.note(finished, time.monotonic())
            text = line(state, pace)
            progress.update(task, completed=finished, total=state.images, text=named(batch.name, text, room))
            if not console.is_terminal and time.monotonic() - printed > _LINE_EVERY:
                printed = time.monotonic()
                console.print(text, soft_wrap=True, highlight=False, markup=False)

        summary = wait(ledger, store, batch.name, show)
        finished = summary.done + summary.failed
        progress.update(task, completed=finished, text=f"{batch.name}: {finished:,}/{summary.images:,} images")
    return summary


def named(name: str, text: str, columns: int) -> str:
    """The name before the text, shortened or left out if the text would otherwise be cut off."""
    room = columns - len(text) - len(": ")
    if room < _LEAST_NAME:
        return text
    return f"{name if len(name) <= room else name[: room - 1] + '…'}: {text}"


def line(state: BatchState, pace: Pace) -> str:
    """The state of a batch in one line without markup; what matters most comes first, as lines may be cut."""
    parts = [f"{state.done + state.failed:,}/{state.images:,} images"]
    if state.state != "open":
        parts.append(f"{state.state}: {state.why}")
    elif state.finished:
        parts.append("writing the report")
    else:
        parts += [f"{pace.rate:.1f} images/s", _left(state)]
    if state.failed:
        parts.append(f"{state.failed:,} failed")
    return ", ".join(parts)


def _left(state: BatchState) -> str:
    return "time left unknown" if state.seconds_left is None else f"{duration(state.seconds_left)} left"


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
        seconds: How long the user has waited.
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
