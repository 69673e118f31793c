"""The estimate of what an order would come to, for people."""

from __future__ import annotations

from datetime import timedelta

from rich.table import Table

from orchestrator.planning.estimate import Estimate


def estimate_table(found: Estimate, *, price: float | None = None) -> Table:
    """The estimate for people."""
    about = "about " if found.about else ""
    table = Table("", "", box=None, show_header=False, pad_edge=False)
    for name, value in (
        ("images", f"{found.images:,}"),
        ("bytes", f"{found.bytes:,}"),
        ("no images", f"{found.skipped:,} files"),
        ("left out by filters", f"{found.left_out:,} files"),
        ("refused", f"{found.refused:,}"),
        ("duplicates", f"{found.duplicates:,}"),
        ("already done", f"{about}{found.done:,}"),
        *((f"to {stage}", f"{about}{count:,}") for stage, count in found.to_run.items()),
    ):
        table.add_row(name, value)
    if found.unread:
        table.add_row("in archives", f"{found.unread:,} not unpacked: some may be duplicates or done already")
    for name, value in _times(found, price):
        table.add_row(name, value)
    return table


def _times(found: Estimate, price: float | None) -> list[tuple[str, str]]:
    if not found.batches:
        return [("time", "unknown: no batch has finished yet")]
    if found.seconds is None or found.gpu_seconds is None or found.finished is None:
        return [("time", "unknown: no finished batch has run all of these stages")]
    length = timedelta(seconds=round(found.seconds))
    measured = f"as measured in the last {found.batches} batches" if found.batches > 1 else "as the last batch"
    rows = [
        ("time", f"about {length} with {found.slots:g} worker slots, {measured}"),
        ("finished", f"about {found.finished:%Y-%m-%d %H:%M} if begun now"),
        ("GPU-seconds", f"about {found.gpu_seconds:,.0f}"),
    ]
    if found.cost is not None:
        rows.append(("cost", f"about {found.cost:,.2f}" + (f" at {price:g} for a GPU-hour" if price else "")))
    return rows
