"""``dermbatch doctor``: what is installed, reachable and missing."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer
from rich.markup import escape
from rich.table import Table

from dermbatch.errors import UsageError
from dermbatch.settings import load
from orchestrator.cli import checks, options
from orchestrator.cli.app import out

_SHOWN = {"ok": "[green]ok[/]", "optional": "[yellow]optional[/]", "missing": "[red]missing[/]"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(home: options.Home = options.DEFAULT_HOME, as_json: options.AsJson = False) -> None:
    """Say what is installed, reachable and missing, and how to fix it; exit code 1 if something is missing."""
    found = list(checks.installed(home))
    try:
        found += checks.reachable(load(), home)
    except UsageError as error:
        found.append(checks.Finding("Settings", "missing", str(error), "docs/settings.md lists all of them"))
    if as_json:
        out.print(json.dumps([asdict(finding) for finding in found], indent=2), markup=False, soft_wrap=True)
    else:
        out.print(_table(found))
    raise typer.Exit(any(finding.state == "missing" for finding in found))


def _table(found: list[checks.Finding]) -> Table:
    table = Table(show_header=False, box=None)
    for overflow in ("ignore", "fold", "fold"):
        table.add_column(overflow=overflow)
    for finding in found:
        mend = f"\n[bold]{escape(finding.mend)}[/]" if finding.mend else ""
        table.add_row(_SHOWN[finding.state], escape(finding.what), escape(finding.detail) + mend)
    return table
