"""``lesionnets operate``: the probabilities from which a classifier calls a label, or counts it as possible."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from dermbatch.errors import UsageError
from dermbatch.models.configuration import read_config
from dermbatch.models.repository import default_model_repository, served_models
from dermbatch.models.risk import Points, Sets, written
from dermbatch.models.served import labels_of, parameters_of
from lesionnets.commands.options import AsJson, listed

if TYPE_CHECKING:
    from lesionnets.evaluation.figures.intervals import Figure

_HEADING = "## Operating points"
_NEXT = "\n## Limits\n"


def operate(
    rows: Annotated[
        Path,
        typer.Argument(
            help="Probabilities of images that the model was not trained on: what `evaluate classify` or `chain` "
            "wrote with --out, or a batch's results.parquet."
        ),
    ],
    labels: Annotated[
        Path | None, typer.Option(help="CSV file with image_id and diagnosis; results.parquet needs it.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of the model in a repository; by default the classifier that ships."),
    ] = None,
    of: Annotated[str, typer.Option(help="Label to set operating points for.")] = "melanoma",
    sensitivity: Annotated[
        str, typer.Option(help="Sensitivities of the operating points: shares separated by commas.")
    ] = "0.82,0.89,0.95",
    coverage: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Coverage of the sets of possible labels.")
    ] = 0.9,
    check: Annotated[
        Path | None,
        typer.Option(help="Rows of other images, in the same form, to check how far the thresholds hold there."),
    ] = None,
    check_labels: Annotated[Path | None, typer.Option(help="Labels of --check, as for --labels.")] = None,
    name: Annotated[str, typer.Option(help="Name of the images on the card.")] = "images of one's own",
    write: Annotated[
        bool, typer.Option("--write", help="Write them into the model's configuration and card.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Set operating points and sets of possible labels on labelled images, and measure how far they hold."""
    from lesionnets.evaluation import operating  # noqa: PLC0415

    folder = model or default_model_repository() / "classify_lite"
    version, classes = _served(folder)
    wanted = sorted({_share(word) for word in listed(sensitivity)})
    if not wanted:
        raise UsageError("--sensitivity names none: write shares such as 0.82,0.95")
    known = operating.read(rows, classes, labels)
    points, sets = operating.set_points(known, of, wanted), operating.set_sets(known, coverage)
    figures = operating.by_folds(known, of, wanted, coverage)
    elsewhere = {}
    if check is not None:
        elsewhere = operating.elsewhere(operating.read(check, classes, check_labels), points, sets)
    if write:
        _write(
            folder, written(points, sets, version), _section(points, sets, figures, f"{name}: {known.counts()}")
        )
    _show(folder.name, known.counts(), written(points, sets, version), figures, elsewhere, as_json=as_json)


def _served(folder: Path) -> tuple[str, tuple[str, ...]]:
    """The newest version of a model, and its classes."""
    versions = served_models(folder.parent).get(folder.name) if folder.is_dir() else None
    if not versions:
        raise UsageError(f"there is no model in {folder}: name its folder in a model repository")
    if not (classes := labels_of(parameters_of(read_config(folder)))):
        raise UsageError(f"{folder.name} is not a classifier: its configuration names no labels")
    return versions[-1], classes


def _share(word: str) -> float:
    try:
        value = float(word)
    except ValueError as error:
        raise UsageError(f"--sensitivity {word!r} is not a number") from error
    if not 0 < value <= 1:
        raise UsageError(f"--sensitivity {word} is not a share above 0 and up to 1")
    return value


def _write(folder: Path, parameters: Mapping[str, str], section: str) -> None:
    """Write into the configuration, replacing what it had, and into the card, before its limits."""
    config, card = folder / "config.pbtxt", folder / "MODEL_CARD.md"
    kept = [
        line
        for line in config.read_text().splitlines()
        if not any(line.startswith(f'parameters {{ key: "{name}"') for name in parameters)
    ]
    added = [
        f'parameters {{ key: "{name}" value: {{ string_value: "{text}" }} }}' for name, text in parameters.items()
    ]
    config.write_text("\n".join([*kept, *added, ""]))
    text = card.read_text() if card.is_file() else f"# {folder.name}\n{_NEXT}"
    text = re.sub(rf"\n{_HEADING}\n.*?(?=\n## |\Z)", "", text, flags=re.DOTALL)
    before, found, after = text.partition(_NEXT)
    card.write_text(f"{before.rstrip()}\n\n{section}{found}{after}")


def _section(points: Points, sets: Sets, figures: Mapping[str, Figure], name: str) -> str:
    label = points.of.replace("_", " ")
    lines = [
        _HEADING,
        "",
        f"Set on {name}. Figures are of images that thresholds were not set on (ten rounds of five folds of these "
        "images), with 95 % bootstrap intervals. Of images from elsewhere less is to be expected.",
        "",
        "| Point | Reached |",
        "|---|---|",
    ]
    for sensitivity, threshold in points.thresholds:
        at = f"{100 * sensitivity:g}"
        reached = f"sensitivity {figures[f'sensitivity_at_{at}']}, specificity {figures[f'specificity_at_{at}']}"
        lines.append(f"| {label} at {at} %: from {threshold:.4f} | {reached} |")
    for of, threshold in sets.thresholds.items():
        reached = f"in the set of {figures[f'coverage_{of}']} of its images"
        lines.append(
            f"| possible at {100 * sets.coverage:g} %: {of.replace('_', ' ')} from {threshold:.4f} | {reached} |"
        )
    lines.append(f"| possible labels of an image | {figures['labels']} |")
    return "\n".join([*lines, ""])


def _show(
    model: str,
    images: str,
    parameters: Mapping[str, str],
    figures: Mapping[str, Figure],
    elsewhere: Mapping[str, Figure],
    *,
    as_json: bool,
) -> None:
    if as_json:
        told = {
            name: {key: asdict(one) for key, one in found.items()}
            for name, found in (("figures", figures), ("elsewhere", elsewhere))
        }
        typer.echo(json.dumps({"model": model, "images": images, "parameters": parameters} | told, indent=2))
        return
    table = Table("figure", "by folds", *(["elsewhere"] if elsewhere else []), title=f"{model}: {images}")
    for name, figure in figures.items():
        cells = [figure, *([elsewhere[name]] if name in elsewhere else [])]
        table.add_row(name, *(str(one).replace("[", r"\[") for one in cells))
    console = Console()
    console.print(table)
    for name, text in parameters.items():
        console.print(f"{name}: {text}", markup=False, highlight=False, soft_wrap=True)
