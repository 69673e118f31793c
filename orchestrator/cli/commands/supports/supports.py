"""``dermbatch supports``: pictures of a rare disease with their lesions drawn, which one-shot models are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from dermbatch.supports import kept
from dermbatch.supports.record import SupportSet
from orchestrator.cli import options
from orchestrator.cli.app import out
from orchestrator.planning.support import read_drawn, whose

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the support.", show_default=False)]
_Tenant = Annotated[str, typer.Option("--tenant", help="Tenant that it belongs to, if tenants are declared.")]

commands = typer.Typer(
    name="supports",
    help="Manage the pictures that one-shot segment models are shown (run --support NAME).",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands)


@commands.command()
def add(
    name: _Name,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Picture of the disease.", show_default=False)],
    mask: Annotated[
        Path,
        typer.Argument(
            metavar="MASK", help="Mask of the same size: black except for the lesion.", show_default=False
        ),
    ],
    disease: Annotated[
        str | None, typer.Option("--disease", help="Name of the disease, for records and reports.")
    ] = None,
    tenant: _Tenant = "default",
    home: options.Home = options.DEFAULT_HOME,
) -> None:
    """Add a picture to a support, creating its next version; a new name creates a new support."""
    settings = options.settings_of(home)
    picture, drawn = read_drawn(image, mask, settings)
    with options.results(home, make=True) as store:
        made = kept.add(store, kept.owned(name, whose(tenant, settings)), picture, drawn, disease)
    out.print(_line(made), markup=False, soft_wrap=True, highlight=False)


@commands.command(name="list")
def listed(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only those of this tenant.")] = None,
    home: options.Home = options.DEFAULT_HOME,
    plain: options.AsJson = False,
) -> None:
    """List the supports, each in its newest version."""
    mine = None if tenant is None else whose(tenant, options.settings_of(home))
    with options.results(home) as store:
        found = sorted(kept.all_newest(store, mine), key=lambda one: one.name)
    if plain:
        text = json.dumps([_told(one) for one in found], indent=2)
        out.print(text, markup=False, soft_wrap=True, highlight=False)
        return
    table = Table("Name", "Version", "Disease", "Pictures", "Since", "Digest", box=None)
    for one in found:
        row = _told(one)
        table.add_row(
            *(str(row[key]) for key in ("name", "version", "disease", "pictures", "created")), one.sha256[:12]
        )
    out.print(table if found else "there are no supports; add one: dermbatch supports add NAME IMAGE MASK")


@commands.command()
def remove(name: _Name, tenant: _Tenant = "default", home: options.Home = options.DEFAULT_HOME) -> None:
    """Delete a support with all its versions and pictures; results computed with it stay."""
    full = kept.owned(name, whose(tenant, options.settings_of(home)))
    with options.results(home) as store:
        kept.remove(store, full)
    out.print(f"support {full} is removed", markup=False, soft_wrap=True, highlight=False)


def _told(one: SupportSet) -> dict[str, Any]:
    shown = {"name": one.name, "version": one.version, "disease": one.disease or "", "pictures": len(one.shots)}
    return shown | {"created": f"{one.created:%Y-%m-%d %H:%M}", "sha256": one.sha256}


def _line(made: SupportSet) -> str:
    what = f" of {made.disease}" if made.disease else ""
    count = "1 picture" if len(made.shots) == 1 else f"{len(made.shots)} pictures"
    return f"support {made.name}@{made.version}{what}: {count}, digest {made.sha256[:12]}"
