"""How batches stand, for ``dermbatch status``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.cli.tables.progress import duration
from orchestrator.reporting.overview import Overview, Standing

_REASONS_IN_LINE = 3


def rendered(shown: Overview, console: Console) -> RenderableType:
    """For people: a table and what helps to judge it; without frames and colours unless on a terminal."""
    headings = (
        "batch",
        "state",
        "lane",
        "images",
        "results",
        "failed",
        "in flight",
        "images/s",
        "left",
        "failures",
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading in {"images", "results", "failed", "in flight", "images/s", "left"}
        # Scripts look for names and states, so these are never cut.
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "failures")
    for one in shown.batches:
        table.add_row(*_cells(one))
    if not console.is_terminal:
        return Text("\n".join(_plain(shown, headings)))
    return Group(table, *(Text(line, style="dim") for line in _below(shown)))


def _plain(shown: Overview, headings: Sequence[str]) -> Iterator[str]:
    """Columns separated by spaces, one line a batch however long: for ``grep`` and ``awk``."""
    rows = [headings, *(tuple(Text.from_markup(cell).plain for cell in _cells(one)) for one in shown.batches)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(headings))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield from _below(shown)


def _cells(one: Standing) -> tuple[str, ...]:
    colour = {"open": "cyan", "paused": "yellow", "cancelled": "yellow", "finished": "green"}.get(one.state, "dim")
    why = f": {one.why}" if one.why else ""
    why += f", takes images in by rule {one.rule}" if one.growing else ""
    lane = f"{one.lane} x{one.weight}" if one.weight not in {None, 1} else str(one.lane or "")
    reasons = Counter(one.reasons).most_common()
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons[:_REASONS_IN_LINE])
    return (
        escape(one.name),
        f"[{colour}]{one.state}[/]{escape(why)}",
        lane,
        str(one.images),
        str(one.done),
        f"[red]{one.failed}[/]" if one.failed else "0",
        str(one.in_flight),
        f"{one.rate:.1f}" if one.rate is not None else "",
        _left(one),
        escape(listed + (" ..." if len(reasons) > _REASONS_IN_LINE else "")),
    )


def _left(one: Standing) -> str:
    if one.seconds_left is not None:
        return duration(one.seconds_left)
    running = one.state == "open" and not one.growing and one.done + one.failed < one.images
    return "unknown" if running else ""


def _below(shown: Overview) -> Iterator[str]:
    if shown.left_out:
        yield f"{shown.left_out} older batches are not shown; --all shows them"
    waits = "none waits" if shown.oldest_live is None else f"the oldest has waited {shown.oldest_live:.1f} s"
    yield f"worker slots: {shown.slots}; live images: {waits}"
