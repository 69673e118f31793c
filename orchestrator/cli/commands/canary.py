"""``dermbatch canary``: new models beside the old ones, on a share of live images."""

from __future__ import annotations

from typing import Annotated

import typer

from dermbatch.errors import UsageError
from dermbatch.store import ObjectStore
from orchestrator.cli import options
from orchestrator.cli.app import out
from orchestrator.cli.tables.canary import render
from orchestrator.planning.models import Offer, named
from orchestrator.steering import canary

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the canary.", show_default=False)]

commands = typer.Typer(
    name="canary",
    help="Run new models beside the old ones, on a share of live images, without touching results.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands)


@commands.command()
def start(
    name: _Name,
    models: options.Models = None,
    share: Annotated[
        float, typer.Option("--share", min=0, max=1, help="Share of live images, above 0 and up to 1.")
    ] = 0.1,
    home: options.Home = options.DEFAULT_HOME,
) -> None:
    """Start a canary; it takes effect within half a minute."""
    settings, store, ledger = options.connect(home)
    chosen = named(models or ())
    Offer.known(settings).check(chosen)
    if unpinned := [stage for stage, choice in chosen.items() if choice.version is None]:
        raise UsageError(f"{unpinned[0]}: give a version, as in {unpinned[0]}=NAME@VERSION")
    canary.start(store, name, chosen, share)
    ledger.slots.wake()


@commands.command()
def stop(name: _Name, home: options.Home = options.DEFAULT_HOME) -> None:
    """Stop a canary; its results stay."""
    canary.stop(ObjectStore(options.attach(home).store), name)


@commands.command()
def report(name: _Name, home: options.Home = options.DEFAULT_HOME, plain: options.AsJson = False) -> None:
    """Show how far old and new models agree."""
    found = canary.report(ObjectStore(options.attach(home).store), name)
    out.print(found.to_json().decode() if plain else render(found), soft_wrap=plain, markup=False)
