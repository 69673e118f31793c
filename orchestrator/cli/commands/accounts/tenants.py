"""Tenants: who is declared, how much of its quota each uses, and whose batches are left over."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import typer
from rich.markup import escape
from rich.table import Table

from dermbatch.errors import UsageError
from orchestrator.cli import options
from orchestrator.cli.app import out, warn
from orchestrator.planning.tenants.attainment import WITHIN, Attained, attained
from orchestrator.planning.tenants.quota import Had, had, orphans
from orchestrator.planning.tenants.tenant import Tenant, load_tenants

_NAMED = 3


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(tenants)


def tenants(home: options.Home = options.DEFAULT_HOME, plain: options.AsJson = False) -> None:
    """Show the declared tenants, how much of its quota each uses, and how well its objectives were met.

    Open batches of tenants that are no longer declared are listed, with exit code 1. The stack need not be
    running, as for fetch.
    """
    declared = load_tenants(options.settings_of(home))
    if declared is None:
        raise UsageError("no tenants are declared: set DERMBATCH_TENANTS__FILE")
    now = datetime.now(UTC)
    with options.results(home) as store:
        found = [(one, had(store, one.name, now), attained(store, one.name, now)) for one in declared.tenants]
        left = orphans(store, (one.name for one in declared.tenants))
    if plain:
        shown = [
            one.model_dump(mode="json") | {"has": asdict(has), "attained": asdict(kept)}
            for one, has, kept in found
        ]
        out.print(json.dumps({"tenants": shown, "left": left}, indent=2), soft_wrap=True, markup=False)
    else:
        out.print(_table(found), soft_wrap=not out.is_terminal)
    for one, has, _ in found:
        if has.watching is not None:
            warn(f"watch takes in nothing more for tenant {one.name!r} for now: {has.watching}")
    for whose, batches in left.items():
        some = ", ".join(batches[:_NAMED])
        warn(
            f"tenant {whose!r} is not declared, and has {len(batches):,} open batches ({some}): they go on and "
            "are billed; declare it again, or cancel them"
        )
    raise typer.Exit(1 if left else 0)


def _table(found: Sequence[tuple[Tenant, Had, Attained]]) -> Table:
    month = found[0][1].month
    table = Table("Tenant", "Prefixes", box=None)
    columns = (
        "Open batches",
        "Open images",
        f"Images in {month}",
        f"Bytes in {month}",
        "Live in time",
        "Deadlines met",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for one, has, kept in found:
        quota, objectives = one.quota, one.objectives
        table.add_row(
            one.name,
            escape(", ".join(one.prefixes)),
            f"{len(has.open_batches):,}",
            _of(has.open_images, quota.open_images),
            _of(has.images, quota.images_a_month),
            _of(has.bytes, quota.bytes_a_month),
            _share(kept.in_time, WITHIN if objectives.live_p95_seconds is not None else None),
            _share(kept.deadlines_met, objectives.deadlines_met),
        )
    return table


def _share(kept: float | None, least: float | None) -> str:
    text = "" if kept is None else f"{kept:.1%}"
    return text if least is None else f"{text or 'none yet'}, of {least:.1%}"


def _of(has: int, most: int | None) -> str:
    return f"{has:,}" if most is None else f"{has:,} of {most:,}"
