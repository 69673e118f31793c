"""The command ``lesionnets``: train networks, evaluate them, export them into a Triton model repository."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from dermbatch.errors import DermbatchError, UsageError
from lesionnets import recipes
from lesionnets.commands import data, evaluate
from lesionnets.commands.generate import evaluate_generated, generate
from lesionnets.commands.oneshot import evaluate_oneshot
from lesionnets.commands.operate import operate
from lesionnets.commands.options import MADE
from lesionnets.commands.patterns import evaluate_retrieval, patterns
from lesionnets.commands.precision import precision
from lesionnets.evaluation.figures.intervals import Figure
from lesionnets.lookup import modules_below

app = typer.Typer(
    help="Train, evaluate and export the networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
evaluate.app.command("oneshot")(evaluate_oneshot)
evaluate.app.command("retrieval")(evaluate_retrieval)
evaluate.app.command("generated")(evaluate_generated)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(data.app, name="data")
app.command()(precision)
app.command()(operate)
app.command()(patterns)
app.command()(generate)

_OF_SEVERAL = frozenset({"enhance_srgan", "mb_dcnn", "mb_dcnn_xception"})

# PyTorch and the networks are imported by the commands that need them: help and usage errors come at once.


def recipe_names() -> list[str]:
    """Names of all recipes, in order."""
    return sorted(modules_below(recipes))


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help=f"One of {', '.join(recipe_names())}.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; by default runs/RECIPE.", callback=MADE)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(envvar="LESIONNETS_DATA", help="Folder in the layout of docs/data.md.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Minutes of training; by default the recipe's own.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
    width: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1.0, help="Share of the paper's width; by default what a CPU can train, 1.0 on a GPU."
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1, help="Stop after this many validations without improvement; by default the recipe's own."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 2017,
    smoke: Annotated[bool, typer.Option(help="Train for seconds on a handful of images, as a test.")] = False,
    resume: Annotated[bool, typer.Option(help="Resume a run that was killed.")] = False,
    leave_out: Annotated[
        int | None,
        typer.Option(
            min=0, max=4, help="Source, 0 to 4, to measure on instead of training on it; for the lite recipes."
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(help="Weights to begin from: a checkpoint, or the ONNX file or folder of a served model."),
    ] = None,
    unseen: Annotated[
        str | None,
        typer.Option(
            help="Diagnosis, such as melanoma, to measure on instead of training on it; for segment_oneshot."
        ),
    ] = None,
    learning: Annotated[
        str,
        typer.Option(
            help="What segment_oneshot learns from: alternate (things and lesions in turn), natural (things), "
            "skin (lesions), plain (lesions, without supports)."
        ),
    ] = "alternate",
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs to train instead of minutes; with both, whichever ends first."),
    ] = None,
    diagnosis: Annotated[
        str | None, typer.Option("--class", help="Diagnosis to learn, such as melanoma; for generate_dcgan.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=32, help="Side of the pictures in pixels, 32, 64, 128 or 256; for recipes that generate."
        ),
    ] = None,
) -> None:
    """Train a network; the last line printed is the path of its best checkpoint."""
    if recipe not in recipe_names():
        raise UsageError(f"there is no recipe {recipe!r}; there are {', '.join(recipe_names())}")
    if init is not None and recipe in _OF_SEVERAL:
        raise UsageError(
            f"{recipe} trains several networks one after another: --init is for recipes that train one"
        )
    import torch  # noqa: PLC0415

    from lesionnets.training import Learning, RecipeOptions  # noqa: PLC0415

    if threads:
        torch.set_num_threads(threads)
    if learning not in set(Learning):
        raise UsageError(f"there is no learning {learning!r}; there are {', '.join(Learning)}")
    options = RecipeOptions(
        out or Path("runs") / recipe,
        data,
        minutes,
        smoke,
        resume,
        seed,
        width,
        patience,
        leave_out,
        init,
        unseen,
        Learning(learning),
        epochs,
        diagnosis,
        size,
    )
    best: Path = import_module(modules_below(recipes)[recipe]).train(options)
    typer.echo(best)


@app.command()
def usual(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt of a run of classify_lite; it is rewritten.")],
    images: Annotated[list[Path], typer.Option(help="Folder of usual pictures; may be given several times.")],
    held_out: Annotated[
        list[Path],
        typer.Option(help="The same, of pictures that the network was not trained on, to set the limits."),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
) -> None:
    """Fit what usual pictures are to a classifier: once exported, it flags others as not dermoscopic."""
    from lesionnets.data.sources.folds import COPIES  # noqa: PLC0415
    from lesionnets.evaluation import samples  # noqa: PLC0415
    from lesionnets.evaluation.choosing.usual import fit  # noqa: PLC0415

    pictures = [one for one in samples.pictures(images).samples if one.image_id not in COPIES]
    fit(checkpoint, pictures, samples.pictures(held_out).samples, seed=seed)
    typer.echo(checkpoint)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt of a run, or the run's folder.")],
    repository: Annotated[Path, typer.Option(help="Triton model repository.", callback=MADE)] = Path(
        "model_repository"
    ),
    version: Annotated[str | None, typer.Option(help="A whole number; the next free one by default.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; by default that of the recipe.")] = None,
    flips: Annotated[
        bool, typer.Option(help="Serve the mean over each picture and its mirror images: better, and slower.")
    ] = False,
    visual_backprop: Annotated[
        bool,
        typer.Option(help="Let a classifier also serve VISUALBACKPROP, what its convolutions responded to."),
    ] = False,
    doubler: Annotated[
        str | None,
        typer.Option(help="Model of the repository that enlarges less for less work, beside one that enhances."),
    ] = None,
    figures: Annotated[
        list[Path] | None,
        typer.Option(help="What `lesionnets evaluate --json` printed, for the card; may be given several times."),
    ] = None,
) -> None:
    """Write a trained network into a Triton model repository; prints the model file's path."""
    import lesionnets.export  # noqa: PLC0415

    measured = {name: figure for path in figures or [] for name, figure in _read_figures(path).items()} or None
    found = lesionnets.export.export(
        checkpoint,
        repository,
        version=version,
        name=name,
        flips=flips,
        figures=measured,
        visual_backprop=visual_backprop,
        doubler=doubler,
    )
    typer.echo(found)


def _read_figures(path: Path) -> dict[str, Figure]:
    """The figures that an evaluation printed as JSON; those of `enhance` by the degradation, too."""
    try:
        told = json.loads(path.read_text())
        how = f"_{told['degradation']}" if "degradation" in told else ""
        found = {f"{name}{how}": Figure(**figure) for name, figure in told["figures"].items()}
        if not all(
            isinstance(value, (int, float)) for figure in found.values() for value in vars(figure).values()
        ):
            raise TypeError("a figure is not a number")  # noqa: TRY301 - as one of another form
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not what `lesionnets evaluate --json` prints") from error
    return found


def main() -> None:
    """Entry point: what users can mend is one sentence on standard error.

    The exit code is 2, or 1 if a file could not be read or written: a disk is full, or a folder went away.
    """
    try:
        app()
    except DermbatchError as error:
        sys.stderr.write(f"lesionnets: {error}\n")
        sys.exit(2)
    except OSError as error:
        if error.strerror is None:
            raise
        sys.stderr.write(f"lesionnets: {f'{error.filename}: ' if error.filename else ''}{error.strerror}\n")
        sys.exit(1)
