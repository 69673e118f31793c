"""``lesionnets data``: make images to measure on, or to train on."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from dermbatch.audit import Audit
from dermbatch.errors import DermbatchError, UsageError
from dermbatch.settings import Settings, load
from dermbatch.store import ObjectStore
from lesionnets.commands.options import MADE, Images, Map, Partial, listed, renamed

app = typer.Typer(help="Prepare images to measure on, or to train on.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Prepare images to measure on, or to train on."""


@app.command()
def pairs(
    images: Images,
    out: Annotated[Path, typer.Option(help="Folder to make: covered/, clean/ and pairs.csv.", callback=MADE)],
    masks: Annotated[
        Path | None, typer.Option(help="Experts' masks, so that a lesion's own lines are not taken for hair.")
    ] = None,
    hair: Annotated[
        str | None,
        typer.Option(
            help="Ids of pictures to take hair from, separated by commas; by default those with the most hair."
        ),
    ] = None,
    hairy: Annotated[int, typer.Option(min=1, help="How many of those with the most hair to take.")] = 12,
    count: Annotated[
        int, typer.Option(min=1, help="Number of pictures to lay hair over: those with the least hair.")
    ] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Seed of how hair is turned.")] = 0,
    partial: Partial = False,
) -> None:
    """Lay real hair of some pictures over others: pairs for `evaluate purify --covered --clean`."""
    import cv2  # noqa: PLC0415

    from lesionnets.evaluation import samples  # noqa: PLC0415
    from lesionnets.evaluation.pasted import pasted_pairs  # noqa: PLC0415

    if (out / "covered").exists() or (out / "clean").exists():
        raise UsageError(f"{out} holds pairs already: name another folder, or delete it")
    found = samples.with_masks(images, masks, partial=partial) if masks else samples.pictures(images)
    made = pasted_pairs(found.samples, hair=listed(hair), hairy=hairy, count=count, seed=seed)
    rows = []
    for pair in made:
        for name, picture in (("covered", pair.covered), ("clean", pair.clean)):
            (out / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(out / name / f"{pair.image_id}.png"), picture[:, :, ::-1])
        rows.append((pair.image_id, pair.hair_of))
    if not rows:
        raise UsageError("no pairs can be made: the pictures have hardly any hair, or are too few")
    with (out / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image_id", "hair_of"), *rows])
    typer.echo(f"{len(rows)} pairs in {out}")


@app.command("from-feedback")
def from_feedback(
    batches: Annotated[
        list[str], typer.Argument(metavar="BATCH", help="Batches whose decisions are taken.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder to make, in the layout of docs/data.md.", callback=MADE)],
    home: Annotated[
        Path | None,
        typer.Option(help="Home of a running stack; by default the store that the environment names."),
    ] = None,
    val: Annotated[float, typer.Option(min=0, max=1, help="Share of the images to hold out.")] = 0.2,
    other_names: Map = None,
) -> None:
    """Make a training set from readers' decisions: with who, when, which model, and what is left out and why."""
    from lesionnets.data.feedback import write_set  # noqa: PLC0415

    settings = load() if home is None else _of_stack(home)
    store = ObjectStore(settings.store, Audit(settings.audit, "lesionnets-data", command=True))
    try:
        written = write_set(store, batches, out, renamed=renamed(other_names), val=val)
    except DermbatchError as error:
        raise error if isinstance(error, UsageError) else UsageError(str(error)) from error
    for word, count in sorted(written.left_out.items()):
        sys.stderr.write(f"lesionnets: left out {count} {word}\n")
    images = ", ".join(f"{count} {split}" for split, count in sorted(written.images.items()))
    diagnoses = ", ".join(f"{count} {name}" for name, count in sorted(written.diagnoses.items())) or "no diagnosis"
    typer.echo(f"{sum(written.images.values())} images ({images}), {written.masks} masks, {diagnoses}: {out}")


def _of_stack(home: Path) -> Settings:
    """Settings that lead to the stack that runs in a home.

    Raises:
        UsageError: If none does.
    """
    try:
        return Settings(**json.loads((home / "stack.json").read_bytes())["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"no stack is running in {home}; start one with: dermbatch up --home {home}") from error
