"""``dermbatch rules``: whether a file of rules is valid, and what it does with an object."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from dermbatch.errors import UsageError
from dermbatch.settings import Settings, load
from dermbatch.store import split_uri
from orchestrator.cli import options
from orchestrator.cli.app import out
from orchestrator.planning import submission
from orchestrator.watching.rules.rules import Explanation, Rule, RuleBook, load_rules
from orchestrator.watching.taking.gathering import window

_File = Annotated[Path, typer.Argument(metavar="FILE", help="File of rules, in YAML.", show_default=False)]
_Object = Annotated[str, typer.Argument(metavar="OBJECT", help="Objects, as s3://bucket/key.", show_default=False)]

commands = typer.Typer(
    name="rules", help="Check the rules by which new objects are taken in.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands)


@commands.command()
def check(file: _File, plain: options.AsJson = False) -> None:
    """Check that a file of rules is valid, and list the rules in their order."""
    book = _rules(file, load())
    if plain:
        out.print(
            json.dumps([rule.model_dump(mode="json") for rule in book.rules], indent=2),
            soft_wrap=True,
            markup=False,
        )
        return
    table = Table("Rule", "Prefix", "Lane", "Batches", box=None)
    for rule in book.rules:
        table.add_row(rule.name, escape(rule.prefix), rule.lane, rule.batches)
    out.print(table)


@commands.command("test")
def explain(file: _File, object_uri: _Object, plain: options.AsJson = False) -> None:
    """Explain which rule takes an object, why the others do not, and what it would do.

    Only the name is looked at; no store is contacted.
    """
    settings = load()
    book = _rules(file, settings)
    try:
        bucket, key = split_uri(object_uri)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not key:
        raise UsageError(f"{object_uri!r} does not name an object; write s3://bucket/key")
    explanations = book.explain(bucket, key)
    fired = next((explanation.rule for explanation in explanations if explanation.fires), None)
    done = _done(fired, book, settings) if fired is not None else None
    if plain:
        shown = [{"rule": v.rule.name, "fires": v.fires, "failed": v.failed, "why": v.why} for v in explanations]
        out.print(json.dumps({"rules": shown, "done": done}, indent=2), soft_wrap=True, markup=False)
    else:
        _print(explanations, done)
    raise typer.Exit(0 if fired is not None else 1)


def _rules(file: Path, settings: Settings) -> RuleBook:
    book = load_rules(file)
    book.check_apart([settings.store.bucket, settings.store.incoming_bucket])
    for rule in book.rules:
        submission.check_inputs(submission.admitted(rule.order(settings), settings), [rule.prefix], settings)
    return book


def _done(rule: Rule, book: RuleBook, settings: Settings) -> dict[str, Any]:
    """Everything that a rule does with an object taken in now."""
    effect = rule.model_dump(mode="json", exclude={"name", "prefix", "include", "exclude", "models", "batches"})
    order = rule.order(settings)
    models = {str(stage): str(model) for stage, model in order.models.items()}
    profile = book.profiles[rule.deidentify].model_dump(mode="json") if rule.deidentify is not None else None
    name, until = window(rule, datetime.now(UTC))
    batch = {"batch": name, "open_until": until.isoformat()}
    effect["tenant"] = order.tenant
    return {"rule": rule.name, **batch, **effect, "dicom": order.dicom, "models": models, "deidentify": profile}


def _print(explanations: tuple[Explanation, ...], done: dict[str, Any] | None) -> None:
    table = Table("Rule", "", "Why", box=None)
    for explanation in explanations:
        table.add_row(
            explanation.rule.name,
            "fires" if explanation.fires else f"no: {explanation.failed}",
            escape(explanation.why),
        )
    out.print(table)
    if done is None:
        out.print("\nNo rule takes this object; it would be left where it is.")
        return
    out.print()
    effects = Table("Done", "", box=None)
    for name, value in done.items():
        effects.add_row(name.replace("_", " "), escape(_shown(value)))
    out.print(effects)


def _shown(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{name}: {_shown(one)}" for name, one in value.items())
        case list():
            return ", ".join(map(str, value))
        case _:
            return str(value)
