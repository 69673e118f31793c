"""``dermbatch models``: which models there are to choose from, and what is known about them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.markup import escape
from rich.table import Table

from dermbatch.models import repository
from dermbatch.models.cards import card_of
from dermbatch.settings import load
from dermbatch.stages import ORDER
from orchestrator.cli import options
from orchestrator.cli.app import out

_SHOWN = (
    "mean auc",
    "balanced accuracy",
    "jaccard",
    "jaccard thresholded",
    "gain clinical",
    "gain plain",
    "hair remaining",
    "isic remaining",
    "lifted remaining",
    "jaccard on minus off",
)
_MOST = 2


@dataclass(frozen=True)
class _Model:
    """A model of a repository, for people and programs."""

    name: str
    versions: list[str]
    default_of: list[str]
    engines: list[str]
    does: str
    figures: dict[str, str]
    operating: dict[str, str]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(models)


def models(model_repository: options.Repository = None, as_json: options.AsJson = False) -> None:
    """List the models that --model can choose: versions, what runs them, and their measured figures."""
    folder = options.repository(model_repository)
    found = _found(folder)
    if as_json:
        out.print(json.dumps([asdict(model) for model in found], indent=2), markup=False, soft_wrap=True)
        return
    table = Table(title=f"Models of {escape(str(folder))}", title_justify="left")
    for column in ("Model", "Versions", "By default", "Run by", "Measured"):
        table.add_column(column, overflow="fold", no_wrap=not table.columns)
    for model in found:
        cells = (model.name, ", ".join(model.versions), ", ".join(model.default_of), " or ".join(model.engines))
        table.add_row(*map(escape, cells), escape("\n".join(_figures(model))))
    out.print(table)
    for model in found:
        for point, reached in model.operating.items():
            out.print(f"{model.name}, {point}: {reached}", markup=False, highlight=False, soft_wrap=True)
    out.print(
        "Measured on validation data, with 95 % intervals; expect less on images from elsewhere: docs/models.md "
        "says how much. The full card of each model is MODEL_CARD.md in its folder."
    )


def _found(folder: Path) -> list[_Model]:
    defaults = load().models
    alone = repository.for_onnx_runtime(folder)
    found = []
    for name, versions in repository.served_models(folder).items():
        card = card_of(folder, name)
        found.append(
            _Model(
                name=name,
                versions=versions,
                default_of=[stage.value for stage in ORDER if defaults[stage].name == name],
                engines=["onnxruntime", "triton"] if name in alone else ["triton"],
                does=card.does if card else "",
                figures=card.figures if card else {},
                operating=card.operating if card else {},
            )
        )
    return found


def _figures(model: _Model) -> list[str]:
    """The most telling figures, or the first ones."""
    names = [name for name in _SHOWN if name in model.figures] or list(model.figures)
    told = [f"{name} {model.figures[name]}" for name in names[:_MOST]]
    return told or ["no figures" if model.does else "no card"]
