"""``dermbatch review``: what people are to read."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Annotated

import typer

from dermbatch.records.plan import ReviewPlan, Strategy
from orchestrator.cli import options
from orchestrator.cli.app import out
from orchestrator.learning.planning import make_plan

commands = typer.Typer(name="review", help="Choose what readers read next.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands)


@commands.callback()
def _group() -> None:
    """Choose what readers read next."""


@commands.command()
def plan(
    batches: Annotated[
        list[str] | None,
        typer.Argument(metavar="BATCH", help="Closed batches; by default all of the tenant.", show_default=False),
    ] = None,
    home: options.Home = options.DEFAULT_HOME,
    strategy: Annotated[
        Strategy,
        typer.Option("--strategy", help="How images are chosen; a fifth is always chosen at random."),
    ] = "entropy",
    count: Annotated[int, typer.Option("--count", min=1, max=10_000, help="How many images.")] = 50,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the plan; by default made from the time.")
    ] = None,
    tenant: Annotated[str, typer.Option("--tenant", help="Tenant of the images.")] = "default",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of all random choices.")] = 0,
    plain: options.AsJson = False,
) -> None:
    """Choose images that are worth reading next, and keep them as a plan for the review queue."""
    called = name or f"plan-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    with options.results(home) as store:
        made = make_plan(store, called, strategy, count, batches=batches or (), tenant=tenant, seed=seed)
    text = made.to_json().decode() if plain else _told(made)
    out.print(text, markup=False, soft_wrap=True, highlight=False)


def _told(made: ReviewPlan) -> str:
    reasons = Counter(one.reason for one in made.images)
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    lines = [f"plan {made.name}: {len(made.images)} of {made.among:,} images ({why})"]
    if made.left_out:
        left_out = ", ".join(f"{count:,} {word}" for word, count in sorted(made.left_out.items()))
        lines.append(f"left out: {left_out}")
    return "\n".join(lines)
