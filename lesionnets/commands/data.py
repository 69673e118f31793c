"""``lesionnets data``: make images to measure on."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import typer

from dermbatch.errors import UsageError
from lesionnets.commands.options import Images, Partial, listed

app = typer.Typer(help="Make images to measure on.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Make images to measure on."""


@app.command()
def pairs(
    images: Images,
    out: Annotated[Path, typer.Option(help="Folder to make: covered/, clean/ and pairs.csv.")],
    masks: Annotated[
        Path | None, typer.Option(help="Experts' masks: a lesion's own lines are not taken for hair.")
    ] = None,
    hair: Annotated[
        str | None,
        typer.Option(
            help="Ids of pictures that hair is taken from, with commas between; those with most if none."
        ),
    ] = None,
    hairy: Annotated[int, typer.Option(min=1, help="How many those with most are.")] = 12,
    count: Annotated[int, typer.Option(min=1, help="Pictures that hair is laid over: those with least.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Of how hair is turned.")] = 0,
    partial: Partial = False,
) -> None:
    """Lay real hair of some pictures over others: pairs for `evaluate purify --covered --clean`."""
    import cv2  # noqa: PLC0415

    from lesionnets.evaluation import samples  # noqa: PLC0415
    from lesionnets.evaluation.pasted import pasted_pairs  # noqa: PLC0415

    found = samples.with_masks(images, masks, partial=partial) if masks else samples.pictures(images)
    if (out / "covered").exists() or (out / "clean").exists():
        raise UsageError(f"{out} holds pairs already: name another folder, or take it away")
    made = pasted_pairs(found.samples, hair=listed(hair), hairy=hairy, count=count, seed=seed)
    rows = []
    for pair in made:
        for name, picture in (("covered", pair.covered), ("clean", pair.clean)):
            (out / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(out / name / f"{pair.image_id}.png"), picture[:, :, ::-1])
        rows.append((pair.image_id, pair.hair_of))
    if not rows:
        raise UsageError("no picture of these can be laid over: they have hardly any hair, or are too few")
    with (out / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image_id", "hair_of"), *rows])
    typer.echo(f"{len(rows)} pairs in {out}")
