"""Who is behind a pseudonym: keys, and the sealed table of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.store import ObjectStore
from orchestrator.cli import options
from orchestrator.cli.app import err, out
from orchestrator.planning.privacy.reidentification import (
    fetched_parts,
    new_keys,
    opened,
    read_key,
    stored_parts,
    write_key,
)

keys = typer.Typer(name="keys", help="Keys of the re-identification tables.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    keys.command("new")(new)
    app.add_typer(keys)
    app.command()(reidentify)


def new(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write the private key.", show_default=False)
    ],
) -> None:
    """Create a pair of keys: the private one in a file, the public one for DERMBATCH_PRIVACY__PUBLIC_KEY."""
    private, public = new_keys()
    write_key(file, private)
    err.print(f"the private key is in {file}: keep it apart from the pseudonymised images", markup=False)
    out.print(public, markup=False, soft_wrap=True)


def reidentify(
    batch_name: options.Batch,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The private key.", show_default=False)],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FOLDER", help="Folder with the results of run; by default the running stack."
        ),
    ] = None,
    home: options.Home = options.DEFAULT_HOME,
) -> None:
    """Print what the images of a batch were originally, one line of JSON each."""
    private = read_key(key)
    layout.check_batch_name(batch_name)
    if folder is not None:
        parts = fetched_parts(folder, batch_name)
    else:
        settings = options.attach(home)
        store = ObjectStore(settings.store)
        parts = stored_parts(store, settings.privacy.bucket or store.bucket, batch_name)
    found = False
    for part in parts:
        found = True
        for row in opened(part, private):
            out.print(row.model_dump_json(), markup=False, soft_wrap=True)
    if not found:
        raise UsageError(f"there is no sealed table for batch {batch_name!r}; its profile did not ask for one")
