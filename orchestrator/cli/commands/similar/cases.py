"""``dermbatch cases``: maintains the indexes of similar cases."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, UsageError
from dermbatch.records.outcome import ResultRecord
from dermbatch.store import ObjectStore
from dermbatch.stored import read, write
from orchestrator.cli import options
from orchestrator.cli.app import out
from orchestrator.similar.facts import parse, write_facts
from orchestrator.similar.growing import grow, indexes, rebuild, waiting
from orchestrator.similar.held import Forbidden, Index

_SHA256 = re.compile(r"[0-9a-f]{64}")

_Images = Annotated[
    list[str],
    typer.Argument(metavar="IMAGE", help="BATCH/INDEX, or the image's SHA-256 from a record.", show_default=False),
]

commands = typer.Typer(
    name="cases", help="Maintain the indexes in which similar cases are found.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands)


@commands.command()
def status(home: options.Home = options.DEFAULT_HOME) -> None:
    """Show which indexes there are, and how many images they still lack."""
    with options.results(home) as store:
        _tell(store, indexes(store))


@commands.command()
def update(home: options.Home = options.DEFAULT_HOME) -> None:
    """Add batches that have closed since, and drop those that were deleted."""
    with options.results(home) as store:
        _tell(store, filter(None, [grow(store, index.model.sha256) for index in indexes(store)]))


@commands.command(name="rebuild")
def rebuild_all(home: options.Home = options.DEFAULT_HOME) -> None:
    """Rebuild the indexes from all closed batches: one for each model that has embeddings."""
    with options.results(home) as store:
        _tell(store, rebuild(store))


@commands.command()
def facts(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="CSV file with a column image, and columns of facts.", show_default=False
        ),
    ],
    home: options.Home = options.DEFAULT_HOME,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Facts about this tenant's images.")] = None,
) -> None:
    """State facts about images: lesion, patient, site, diagnosis, taken; replaces all earlier facts."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read as UTF-8 text") from error
    parse(text, str(file))
    with options.results(home) as store:
        write_facts(store, text, None if tenant is None else layout.check_batch_name(tenant, "tenant"))


@commands.command()
def forbid(
    images: _Images,
    home: options.Home = options.DEFAULT_HOME,
    why: Annotated[str, typer.Option("--why", help="The reason, for later readers.")] = "",
) -> None:
    """Never show these images as similar cases, whatever batch they are in."""
    with options.results(home) as store:
        for sha256 in [_digest(store, image) for image in images]:
            write(store, layout.forbidden(sha256), Forbidden(sha256=sha256, why=why, at=datetime.now(UTC)))


@commands.command()
def allow(images: _Images, home: options.Home = options.DEFAULT_HOME) -> None:
    """Allow these images to be shown again."""
    with options.results(home) as store:
        for sha256 in [_digest(store, image) for image in images]:
            store.delete(layout.forbidden(sha256))


def _digest(store: ObjectStore, image: str) -> str:
    if _SHA256.fullmatch(image):
        return image
    batch, _, index = image.rpartition("/")
    if not index.isdecimal():
        raise UsageError(
            f"{image} does not name an image: write BATCH/INDEX, or a SHA-256 as 64 hexadecimal digits"
        )
    try:
        key = layout.result(layout.check_batch_name(batch), int(index))
        return read(store, key, ResultRecord).source.sha256
    except ObjectNotFound as error:
        raise UsageError(f"image {index} of batch {batch!r} has no result") from error


def _tell(store: ObjectStore, found: Iterable[Index]) -> None:
    lines = [_standing(index, waiting(store, index)) for index in found]
    for line in lines or ["there is no index; build one from closed batches: dermbatch cases rebuild"]:
        out.print(line, markup=False, soft_wrap=True, highlight=False)


def _standing(index: Index, missing: int) -> str:
    model = f"{index.model.name} {index.model.version} ({index.model.sha256[:12]})"
    how = "compared one by one" if index.trained is None else f"in lists, fitted to {index.trained.on:,}"
    text = f"{model}: version {index.version}, {index.cases:,} cases, {how}; not held yet: {missing:,} images"
    return f"{text}; {index.passed_over:,} have an embedding without direction" if index.passed_over else text
