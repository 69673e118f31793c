"""The command ``lesionnets``: train networks, evaluate them, export them into a Triton model repository."""

from __future__ import annotations

import json
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dermbatch.errors import UsageError
from dermbatch.stages import Stage
from lesionnets import recipes
from lesionnets.evaluation.intervals import Figure

app = typer.Typer(
    help="Train, evaluate and export the networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
evaluate_app = typer.Typer(
    help="Figures of a model on labelled images, with 95 % intervals.", no_args_is_help=True
)
app.add_typer(evaluate_app, name="evaluate")

# PyTorch and the networks are imported by the commands that need them: help and usage errors come at once.

Images = Annotated[list[Path], typer.Option(help="Folder of images; may be given several times.")]
Masks = Annotated[Path, typer.Option(help="Folder of <image_id>_segmentation.png.")]
Labels = Annotated[Path, typer.Option(help="CSV file with image_id, diagnosis and perhaps split.")]
Model = Annotated[Path, typer.Option(help="A checkpoint (best.pt) or an ONNX file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def recipe_names() -> list[str]:
    """Names of all recipes, in order."""
    return sorted(module.name for module in pkgutil.iter_modules(recipes.__path__))


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help=f"One of {', '.join(recipe_names())}.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/RECIPE where not given.")] = None,
    data: Annotated[
        Path | None, typer.Option(envvar="LESIONNETS_DATA", help="Folder in the layout of docs/data.md.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Time to train; the recipe's own by default.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 2017,
    smoke: Annotated[bool, typer.Option(help="Train for seconds on a handful of images, as a test.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on where a killed run stopped.")] = False,
) -> None:
    """Train a network; the last line printed is the path of its best checkpoint."""
    if recipe not in recipe_names():
        raise UsageError(f"there is no recipe {recipe!r}; there are {', '.join(recipe_names())}")
    import torch  # noqa: PLC0415

    from lesionnets.training import RecipeOptions  # noqa: PLC0415

    if threads:
        torch.set_num_threads(threads)
    options = RecipeOptions(out or Path("runs") / recipe, data, minutes, smoke, resume, seed)
    best: Path = import_module(f"lesionnets.recipes.{recipe}").train(options)
    typer.echo(best)


@evaluate_app.command("segment")
def evaluate_segment(images: Images, masks: Masks, model: Model, as_json: AsJson = False) -> None:
    """Jaccard, Dice, sensitivity and specificity of lesion masks at the experts' resolution."""
    from lesionnets.data.isic import find_samples  # noqa: PLC0415
    from lesionnets.evaluation import predictors, segment  # noqa: PLC0415

    samples = [sample for folder in images for sample in find_samples(folder, masks)]
    figures = segment.evaluate(predictors.load_model(model, Stage.SEGMENT), samples)
    _print("segment", model, len(samples), figures, as_json=as_json)


@evaluate_app.command("classify")
def evaluate_classify(
    images: Images,
    labels: Labels,
    model: Model,
    masks: Annotated[Path | None, typer.Option(help="Experts' masks, used where --segment is not given.")] = None,
    segment: Annotated[Path | None, typer.Option(help="Model that makes the lesion masks, as in service.")] = None,
    split: Annotated[str | None, typer.Option(help="Only rows of the labels with this split.")] = None,
    as_json: AsJson = False,
) -> None:
    """AUC of each class against the rest, and their mean over melanoma and seborrheic keratosis."""
    from lesionnets.data.isic import find_labelled  # noqa: PLC0415
    from lesionnets.evaluation import classify, predictors  # noqa: PLC0415

    samples = find_labelled(images, labels, masks=masks, split=split)
    segmenter = predictors.load_model(segment, Stage.SEGMENT) if segment else None
    figures = classify.evaluate(predictors.load_model(model, Stage.CLASSIFY), samples, segmenter)
    _print("classify", model, len(samples), figures, as_json=as_json)


@evaluate_app.command("enhance")
def evaluate_enhance(
    images: Images,
    model: Model,
    masks: Annotated[Path | None, typer.Option(help="Experts' masks: measure on the lesions' regions.")] = None,
    area: Annotated[bool, typer.Option(help="Reduce by means of 4 x 4 pixels instead of bicubic.")] = False,
    as_json: AsJson = False,
) -> None:
    """PSNR of images that were reduced by four and enhanced again, beside bicubic interpolation."""
    from lesionnets.data.isic import find_samples, read_image  # noqa: PLC0415
    from lesionnets.data.lesion_crops import load_lesion_crops  # noqa: PLC0415
    from lesionnets.evaluation import enhance, predictors  # noqa: PLC0415

    samples = [sample for folder in images for sample in find_samples(folder, masks)]
    pictures = load_lesion_crops(samples) if masks else [read_image(sample.image) for sample in samples]
    if not pictures:
        raise UsageError("no lesion of these images is 64 pixels wide and high; take larger images")
    run = predictors.load_model(model, Stage.ENHANCE)
    found = enhance.measure(
        lambda image: run(IMAGE=image)["ENHANCED"], pictures, how="area" if area else "bicubic"
    )
    _print("enhance", model, len(pictures), vars(found), as_json=as_json)


@evaluate_app.command("purify")
def evaluate_purify(
    images: Images,
    masks: Masks,
    model: Model,
    count: Annotated[int, typer.Option(min=1, help="How many images: those with least hair of their own.")] = 40,
    as_json: AsJson = False,
) -> None:
    """Mean absolute error inside and outside of hairs drawn over images, before and after purification."""
    from lesionnets.data.isic import find_samples  # noqa: PLC0415
    from lesionnets.evaluation import predictors, purify  # noqa: PLC0415

    samples = [sample for folder in images for sample in find_samples(folder, masks)]
    run = predictors.load_model(model, Stage.PURIFY)
    cases = purify.hair_cases(purify.least_covered(samples, count))
    found = purify.measure(lambda image: run(IMAGE=image)["PURIFIED"], cases)
    _print("purify", model, len(cases), vars(found), as_json=as_json)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt of a run, or the run's folder.")],
    repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path("model_repository"),
    version: Annotated[str | None, typer.Option(help="A whole number; the next free one by default.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the model; the recipe's by default.")] = None,
) -> None:
    """Write a trained network into a Triton model repository; prints the model file's path."""
    import lesionnets.export  # noqa: PLC0415

    typer.echo(lesionnets.export.export(checkpoint, repository, version=version, name=name))


def _print(stage: str, model: Path, images: int, figures: Mapping[str, Figure], *, as_json: bool) -> None:
    """Figures (a mean with its interval each) as JSON or as a table."""
    if as_json:
        values = {name: asdict(figure) for name, figure in figures.items()}
        typer.echo(
            json.dumps({"stage": stage, "model": str(model), "images": images, "figures": values}, indent=2)
        )
        return
    table = Table("figure", "value [95 % interval]", title=f"{stage}: {model} on {images} images")
    for name, figure in figures.items():
        table.add_row(name, str(figure).replace("[", r"\["))
    Console().print(table)


def main() -> None:
    """Entry point: a usage error is one sentence on standard error and exit code 2."""
    try:
        app()
    except UsageError as error:
        sys.stderr.write(f"lesionnets: {error}\n")
        sys.exit(2)
