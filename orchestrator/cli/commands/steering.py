"""Steering open batches: pause, resume, cancel, prioritize, retry, reconcile."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from dermbatch.errors import UsageError
from orchestrator.cli import options
from orchestrator.cli.app import out
from orchestrator.reporting.overview import Standing, standing
from orchestrator.steering import controls
from orchestrator.steering.reconciler import reconcile as reconcile_all
from orchestrator.steering.reconciler import reopen
from orchestrator.steering.replay import retry as replay


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (pause, resume, cancel, prioritize, retry, reconcile):
        app.command()(command)


def pause(batch_name: options.Batch, home: options.Home = options.DEFAULT_HOME) -> None:
    """Start no further images of a batch; those in flight are finished."""
    _, store, ledger = options.connect(home)
    controls.pause(store, ledger, batch_name)


def resume(batch_name: options.Batch, home: options.Home = options.DEFAULT_HOME) -> None:
    """Continue a paused batch."""
    _, store, ledger = options.connect(home)
    controls.resume(store, ledger, batch_name)


def cancel(batch_name: options.Batch, home: options.Home = options.DEFAULT_HOME) -> None:
    """End a batch; what is done is reported, the rest is not run."""
    _, store, ledger = options.connect(home)
    controls.cancel(store, ledger, batch_name)


def prioritize(
    batch_name: options.Batch,
    home: options.Home = options.DEFAULT_HOME,
    lane: Annotated[
        Literal["live", "bulk"] | None, typer.Option("--lane", help="Lane in which its images queue from now on.")
    ] = None,
    weight: Annotated[
        int | None,
        typer.Option(
            "--weight", min=1, max=100, help="Its share of the lane, relative to the other open batches."
        ),
    ] = None,
) -> None:
    """Move a batch to another lane, or give it another share of its lane."""
    if lane is None and weight is None:
        raise UsageError("nothing to change: give --lane, --weight or both")
    _, store, ledger = options.connect(home)
    controls.prioritize(store, ledger, batch_name, lane=lane, weight=weight)


def retry(
    batch_name: options.Batch,
    home: options.Home = options.DEFAULT_HOME,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Only images that failed with this reason code.")
    ] = None,
) -> None:
    """Try the failed images of a batch again."""
    _, store, ledger = options.connect(home)
    count = replay(store, ledger, batch_name, reason)
    if count:
        out.print(f"{count} images will be tried again", markup=False)
        return
    one = standing(store, ledger, batch_name).batches[0]
    out.print(_nothing_failed(one, reason), markup=False, soft_wrap=True)


def _nothing_failed(one: Standing, reason: str | None) -> str:
    """The message when there is nothing to try again."""
    text = f"no image failed for {reason}" if reason else "no image failed"
    if one.closed is None and one.done + one.failed < one.images:
        text += f" so far ({one.images - one.done - one.failed:,} of {one.images:,} have no outcome yet)"
    if others := [f"{code} {count:,}" for code, count in one.reasons.items() if code != reason]:
        text += f"; failures are {', '.join(others)}"
    return f"{text}; nothing was changed"


def reconcile(home: options.Home = options.DEFAULT_HOME) -> None:
    """Rebuild Redis from the object store and go on with every batch that is not closed.

    The orchestrator does so on its own when Redis has lost its data; this command does it now, and also finds
    batches whose control was lost.
    """
    _, store, ledger = options.connect(home)
    found = reopen(store)
    restored = [name for shard in ledger.all_shards() for name in reconcile_all(store, shard)]
    for shard in ledger.all_shards():
        shard.slots.wake()
    for name in found:
        out.print(f"{name}: neither closed nor open; it is opened again", markup=False)
    for name in restored:
        out.print(f"{name}: restored", markup=False)
    standing = ledger.everywhere().batches
    out.print(f"{len(standing)} batches open, {sum(state.left for state in standing):,} images left", markup=False)
