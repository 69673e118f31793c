"""How evaluations report: figures as JSON or a table, a CSV file of images, what is missing."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lesionnets.data.sources.isic import Sample
from lesionnets.evaluation.figures.intervals import Figure
from lesionnets.evaluation.figures.ranking import CHALLENGE

Row = Mapping[str, object]


def watched(what: str) -> Callable[[Sequence[Sample]], Iterable[Sample]]:
    """Iterate over samples with a progress bar on standard error, if that is a terminal."""
    console = Console(stderr=True)

    def through(samples: Sequence[Sample]) -> Iterable[Sample]:
        return track(samples, what, console=console, transient=True, disable=not console.is_terminal)

    return through


def write_rows(path: Path | None, rows: Sequence[Row]) -> None:
    """Write rows as a CSV file, if one is requested; missing values stay empty."""
    if path is None:
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def missing_classes(classes: Sequence[str], samples: Sequence[Sample]) -> dict[str, object]:
    """Report on standard error which classes of a model no image has, and which ``mean_auc`` covers then.

    Returns:
        ``missing_classes`` and ``mean_auc_over``; nothing where all classes are there.
    """
    there = {sample.diagnosis for sample in samples}
    if not (missing := [name for name in classes if name not in there]):
        return {}
    # As figures.ranking.areas takes the mean.
    over = [name for name in CHALLENGE if name in there and name in classes] or [
        name for name in classes if name in there
    ]
    sys.stderr.write(
        f"lesionnets: no image is labelled {', '.join(missing)}: means are over the others, "
        f"mean_auc over {', '.join(over)} alone\n"
    )
    return {"missing_classes": missing, "mean_auc_over": over}


def resolution(native: bool) -> str:
    """How many pixels were sent."""
    return "native: all pixels are sent" if native else "served: as many pixels as a worker sends"


def show(
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
        left_out: What was left out, and how often; also reported on standard error.
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
