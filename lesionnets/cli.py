"""The command ``lesionnets``: train networks, evaluate them, export them into a Triton model repository."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dermbatch.errors import UsageError
from dermbatch.stages import Stage
from lesionnets import recipes
from lesionnets.data.degradations import Degradation
from lesionnets.evaluation.figures.intervals import Figure
from lesionnets.lookup import modules_below

if TYPE_CHECKING:
    from lesionnets.data.sources.isic import Sample

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
Labels = Annotated[Path, typer.Option(help="CSV file with image_id, diagnosis (or dx) and perhaps split.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="A checkpoint (best.pt), an ONNX file, or triton://HOST:PORT/NAME[@VERSION]; by default what ships."
    ),
]
Segmenter = Annotated[str | None, typer.Option(help="Model that finds the lesions, as --model.")]
Flips = Annotated[bool, typer.Option(help="Mean over each picture and its mirror images; of a checkpoint.")]
Native = Annotated[
    bool, typer.Option(help="Send all pixels of an image, not as many as a worker sends (1,024 on the long side).")
]
Partial = Annotated[bool, typer.Option(help="Leave out masks that have no image, instead of refusing them.")]
Split = Annotated[str | None, typer.Option(help="Only rows of the labels with this split.")]
Classes = Annotated[
    str | None,
    typer.Option(help="Comma separated, in the order of the probabilities; the model's labels if not given."),
]
Out = Annotated[Path | None, typer.Option(help="CSV file to write: a row an image.")]
LongSide = Annotated[
    str | None,
    typer.Option(
        help="Reduce pictures to this many pixels on the long side first, as other cameras had made them; several "
        "with commas between: figures are then called NAME_at_PIXELS."
    ),
]
Map = Annotated[
    str | None,
    typer.Option(
        "--map",
        help="Other names of diagnoses, such as bkl=seborrheic_keratosis,df=; those named nothing are left out.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def recipe_names() -> list[str]:
    """Names of all recipes, in order."""
    return sorted(modules_below(recipes))


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
    width: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1.0, help="Share of the paper's width; by default what a CPU can train, 1.0 on a GPU."
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1, help="Stop after so many validations without a better one; the recipe's own by default."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 2017,
    smoke: Annotated[bool, typer.Option(help="Train for seconds on a handful of images, as a test.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on where a killed run stopped.")] = False,
    leave_out: Annotated[
        int | None,
        typer.Option(min=0, max=4, help="Source not to train on but to measure on, 0 to 4; of the lite recipes."),
    ] = None,
) -> None:
    """Train a network; the last line printed is the path of its best checkpoint."""
    if recipe not in recipe_names():
        raise UsageError(f"there is no recipe {recipe!r}; there are {', '.join(recipe_names())}")
    import torch  # noqa: PLC0415

    from lesionnets.training import RecipeOptions  # noqa: PLC0415

    if threads:
        torch.set_num_threads(threads)
    options = RecipeOptions(
        out or Path("runs") / recipe, data, minutes, smoke, resume, seed, width, patience, leave_out
    )
    best: Path = import_module(modules_below(recipes)[recipe]).train(options)
    typer.echo(best)


@evaluate_app.command("segment")
def evaluate_segment(
    images: Images,
    masks: Masks,
    model: Model = None,
    flips: Flips = False,
    native: Native = False,
    raw: Annotated[bool, typer.Option(help="The network's mask: not cleaned, and not one lesion only.")] = False,
    partial: Partial = False,
    long_side: LongSide = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Overlap, boundary distance and calibration of lesion masks, at the experts' resolution."""
    from lesionnets.evaluation import samples, segment  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415

    found = samples.with_masks(images, masks, partial=partial)
    model = model or predictors.default_model(Stage.SEGMENT)
    loaded = predictors.load_model(model, Stage.SEGMENT, flips=flips)
    rows: segment.Rows = []
    figures: dict[str, Figure] = {}
    for side, end in _sides(long_side):
        part: segment.Rows = []
        measured = segment.evaluate(
            loaded, found.samples, native=native, raw=raw, watched=_watched("segment"), long_side=side, rows=part
        )
        rows += [{"long_side": side, **row} for row in part]
        figures |= {f"{name}{end}": figure for name, figure in measured.items()}
    _write_rows(out, rows)
    about = {"resolution": _resolution(native), "masks": "network" if raw else "worker", "flips": flips}
    _print("segment", model, len(found.samples), figures, as_json=as_json, about=about, left_out=found.left_out)


@evaluate_app.command("classify")
def evaluate_classify(
    images: Images,
    labels: Labels,
    model: Model = None,
    masks: Annotated[Path | None, typer.Option(help="Experts' masks, which go before --segment's.")] = None,
    segment: Segmenter = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Empty masks: the classifier sees whole pictures.")
    ] = False,
    split: Split = None,
    classes: Classes = None,
    flips: Flips = False,
    native: Native = False,
    renamed: Map = None,
    long_side: LongSide = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """AUC, accuracy, specificity at given sensitivities, and calibration of the diagnoses' probabilities."""
    if whole and (masks or segment):
        raise UsageError("--whole is without masks: leave out --masks and --segment")
    from lesionnets.evaluation import classify, samples  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415

    found = samples.with_diagnoses(images, labels, masks=masks, split=split, renamed=_renamed(renamed))
    model = model or predictors.default_model(Stage.CLASSIFY)
    segment = None if whole else segment or predictors.default_model(Stage.SEGMENT)
    loaded = predictors.load_model(model, Stage.CLASSIFY, flips=flips)
    segmenter = predictors.load_model(segment, Stage.SEGMENT) if segment else None
    rows: list[dict[str, object]] = []
    figures: dict[str, Figure] = {}
    for side, end in _sides(long_side):
        part: list[dict[str, object]] = []
        measured = classify.evaluate(
            loaded,
            found.samples,
            segmenter,
            classes=_listed(classes),
            native=native,
            watched=_watched("classify"),
            long_side=side,
            table=part,
        )
        rows += [{"long_side": side, **row} for row in part]
        figures |= {f"{name}{end}": figure for name, figure in measured.items()}
    _write_rows(out, rows)
    _tell_missing(loaded.labels, found.samples)
    experts = sum(sample.mask is not None for sample in found.samples)
    about = {
        "resolution": _resolution(native),
        "lesions": segment or "none",
        "experts_masks": experts,
        "flips": flips,
    }
    _print("classify", model, len(found.samples), figures, as_json=as_json, about=about, left_out=found.left_out)


@evaluate_app.command("enhance")
def evaluate_enhance(
    images: Images,
    model: Model = None,
    masks: Annotated[Path | None, typer.Option(help="Experts' masks: measure on the lesions' regions.")] = None,
    degradation: Annotated[
        Degradation,
        typer.Option(
            help="How images are reduced: bicubic; mean of 4 x 4; with blur, noise and JPEG, some or much."
        ),
    ] = Degradation.PLAIN,
    partial: Partial = False,
    as_json: AsJson = False,
) -> None:
    """PSNR and SSIM of images that were reduced by four and enhanced again, beside bicubic interpolation."""
    from lesionnets.data.batches.lesion_crops import load_lesion_crops  # noqa: PLC0415
    from lesionnets.data.sources.isic import read_image  # noqa: PLC0415
    from lesionnets.evaluation import enhance, samples  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415

    found = samples.with_masks(images, masks, partial=partial) if masks else samples.pictures(images)
    crops = load_lesion_crops(found.samples) if masks else [read_image(one.image) for one in found.samples]
    model = model or predictors.default_model(Stage.ENHANCE)
    run = predictors.load_model(model, Stage.ENHANCE)
    figures = enhance.measure(lambda image: run(IMAGE=image)["ENHANCED"], crops, how=degradation)
    about = {"regions": "lesions" if masks else "whole images", "degradation": str(degradation)}
    _print("enhance", model, len(crops), figures, as_json=as_json, about=about, left_out=found.left_out)


@evaluate_app.command("purify")
def evaluate_purify(
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder of images that are drawn on; may be given several times.")
    ] = None,
    model: Model = None,
    covered: Annotated[
        Path | None, typer.Option(help="Real pictures with hair, instead of --images; with --clean.")
    ] = None,
    clean: Annotated[
        Path | None, typer.Option(help="The same pictures without hair, of the same file names.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Experts' masks: measure what segmentation gains, too.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV file as that of evaluate classify: what diagnoses gain, too.")
    ] = None,
    split: Split = None,
    segment: Segmenter = None,
    classify: Annotated[str | None, typer.Option(help="Model of the diagnoses, as --model.")] = None,
    classes: Classes = None,
    count: Annotated[
        int, typer.Option(min=1, help="Images of the errors: those with least hair of their own.")
    ] = 40,
    occlusions: Annotated[str, typer.Option(help="What is drawn, each apart, with commas between.")] = "hair",
    drawings: Annotated[int, typer.Option(min=1, help="Times that hairs are drawn for what others gain.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    native: Native = False,
    partial: Partial = False,
    as_json: AsJson = False,
) -> None:
    """Error inside and outside of what lies over images, before and after, and what other stages gain."""
    if covered or clean:
        if images or masks or labels or not (covered and clean):
            raise UsageError("real pairs are measured by themselves: --covered DIR and --clean DIR, no --images")
        _evaluate_pairs(covered, clean, model, native=native, as_json=as_json)
        return
    if not images:
        raise UsageError("name images to draw on with --images DIR, or real pairs with --covered and --clean")
    if labels and not masks:
        raise UsageError("diagnoses are measured beside masks: name --masks too")
    from lesionnets.evaluation import downstream, purify, samples  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415

    found = samples.with_masks(images, masks, partial=partial) if masks else samples.pictures(images)
    model = model or predictors.default_model(Stage.PURIFY)
    run = predictors.load_model(model, Stage.PURIFY)
    figures: dict[str, Figure] = {}
    pictures = [run.fitted(image, native=native) for image in purify.least_covered(found.samples, count)]
    for kind in _listed(occlusions):
        cases = purify.drawn_cases(pictures, kind, seed=seed)
        measured = purify.measure(lambda image: run(IMAGE=image)["PURIFIED"], cases)
        figures |= {f"{kind}_{name}": figure for name, figure in vars(measured).items()}
    about: dict[str, object] = {"resolution": _resolution(native), "drawn_on": len(pictures)}
    if masks:
        if labels:
            found = samples.with_diagnoses(images, labels, masks=masks, split=split)
        segment = segment or predictors.default_model(Stage.SEGMENT)
        classify = (classify or predictors.default_model(Stage.CLASSIFY)) if labels else None
        figures |= downstream.evaluate(
            run,
            predictors.load_model(segment, Stage.SEGMENT),
            predictors.load_model(classify, Stage.CLASSIFY) if classify else None,
            found.samples,
            classes=_listed(classes),
            native=native,
            seed=seed,
            drawings=drawings,
            watched=_watched("purify"),
        )
        about |= {"segment": segment, "classify": classify, "drawings": drawings}
    _print("purify", model, len(found.samples), figures, as_json=as_json, about=about, left_out=found.left_out)


def _evaluate_pairs(covered: Path, clean: Path, model: str | None, *, native: bool, as_json: bool) -> None:
    """Error inside and outside of real hair."""
    from lesionnets.evaluation import purify  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415

    pairs, left_out = purify.real_pairs(covered, clean)
    model = model or predictors.default_model(Stage.PURIFY)
    run = predictors.load_model(model, Stage.PURIFY)
    cases = purify.read_pairs(pairs, lambda image: run.fitted(image, native=native))
    if len(cases) < len(pairs):
        left_out |= {"pairs with hardly any hair": len(pairs) - len(cases)}
    figures = vars(purify.measure(lambda image: run(IMAGE=image)["PURIFIED"], cases))
    about: dict[str, object] = {"resolution": _resolution(native), "pairs": "real"}
    _print("purify", model, len(cases), figures, as_json=as_json, about=about, left_out=left_out)


@app.command()
def usual(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt of a run of classify_lite; written anew.")],
    images: Annotated[list[Path], typer.Option(help="Folder of usual pictures; may be given several times.")],
    held_out: Annotated[
        list[Path], typer.Option(help="The same that the network was not trained on, for the limits.")
    ],
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
) -> None:
    """Fit to a classifier what usual pictures are: once exported it flags others as no dermoscopic images."""
    from lesionnets.data.sources.folds import COPIES  # noqa: PLC0415
    from lesionnets.evaluation import samples  # noqa: PLC0415
    from lesionnets.evaluation.choosing.usual import fit  # noqa: PLC0415

    pictures = [one for one in samples.pictures(images).samples if one.image_id not in COPIES]
    fit(checkpoint, pictures, samples.pictures(held_out).samples, seed=seed)
    typer.echo(checkpoint)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt of a run, or the run's folder.")],
    repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path("model_repository"),
    version: Annotated[str | None, typer.Option(help="A whole number; the next free one by default.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the model; the recipe's by default.")] = None,
    flips: Annotated[
        bool, typer.Option(help="Serve the mean over each picture and its mirror images: better, and slower.")
    ] = False,
    figures: Annotated[
        list[Path] | None,
        typer.Option(help="What `lesionnets evaluate --json` printed, for the card; may be given several times."),
    ] = None,
) -> None:
    """Write a trained network into a Triton model repository; prints the model file's path."""
    import lesionnets.export  # noqa: PLC0415

    measured = {name: figure for path in figures or [] for name, figure in _read_figures(path).items()} or None
    found = lesionnets.export.export(
        checkpoint, repository, version=version, name=name, flips=flips, figures=measured
    )
    typer.echo(found)


def _read_figures(path: Path) -> dict[str, Figure]:
    """The figures that an evaluation printed as JSON; those of `enhance` by the degradation, too."""
    try:
        told = json.loads(path.read_text())
        how = f"_{told['degradation']}" if "degradation" in told else ""
        return {f"{name}{how}": Figure(**figure) for name, figure in told["figures"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not what `lesionnets evaluate --json` prints") from error


def _watched(what: str) -> Callable[[Sequence[Sample]], Iterable[Sample]]:
    """Go through samples with a progress bar on standard error, where that is a terminal."""
    console = Console(stderr=True)

    def watched(samples: Sequence[Sample]) -> Iterable[Sample]:
        return track(samples, what, console=console, transient=True, disable=not console.is_terminal)

    return watched


def _sides(text: str | None) -> list[tuple[int | None, str]]:
    """Long sides, pixels, that were asked for, and what their figures' names end in."""
    if text is None:
        return [(None, "")]
    words = _listed(text)
    if not words or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"--long-side {text!r} is no list of pixels such as 256,512")
    return [(int(word), f"_at_{int(word)}" if len(words) > 1 else "") for word in words]


def _renamed(text: str | None) -> dict[str, str]:
    pairs = [word.partition("=") for word in _listed(text)]
    if any(not mark or not name.strip() for name, mark, _ in pairs):
        raise UsageError(f"--map {text!r} is no list such as bkl=seborrheic_keratosis,df=")
    return {name.strip(): other.strip() for name, _, other in pairs}


def _write_rows(path: Path | None, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows of one kind as a CSV file, where one was asked for."""
    if path is None:
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _tell_missing(classes: Sequence[str], samples: Sequence[Sample]) -> None:
    """Say which of a model's classes no image has, as figures then lack them, and means are over fewer."""
    missing = [name for name in classes if name not in {sample.diagnosis for sample in samples}]
    if missing:
        sys.stderr.write(f"lesionnets: no image is labelled {', '.join(missing)}: means are over the others\n")


def _listed(text: str | None) -> list[str]:
    return [word.strip() for word in text.split(",")] if text else []


def _resolution(native: bool) -> str:
    return "native: all pixels are sent" if native else "served: as many pixels as a worker sends"


def _print(
    stage: str,
    model: str,
    images: int,
    figures: Mapping[str, Figure],
    *,
    as_json: bool,
    about: Mapping[str, object] | None = None,
    left_out: Mapping[str, int] | None = None,
) -> None:
    """Figures (a mean with its interval each) as JSON or as a table.

    Args:
        stage: What was measured.
        model: As the user called it.
        images: How many were measured.
        figures: By name.
        as_json: Print JSON.
        about: How it was measured.
        left_out: What was passed over, and how many of it; also told on standard error.
    """
    for what, count in (left_out or {}).items():
        sys.stderr.write(f"lesionnets: left out {count} {what}\n")
    if as_json:
        values = {name: asdict(figure) for name, figure in figures.items()}
        told = {
            "stage": stage,
            "model": model,
            "images": images,
            **(about or {}),
            "left_out": dict(left_out or {}),
        }
        typer.echo(json.dumps(told | {"figures": values}, indent=2))
        return
    how = ", ".join(f"{name} {value}" for name, value in (about or {}).items()) or None
    table = Table("figure", "value [95 % interval]", title=f"{stage}: {model} on {images} images", caption=how)
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
