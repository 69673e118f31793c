"""``dermbatch similar``: the cases most like an image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, PermanentError, UsageError
from dermbatch.records.asked import Filters
from dermbatch.records.outcome import FailureRecord, ResultRecord
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import read
from orchestrator.batches.entries import named
from orchestrator.batches.outcomes import outcomes
from orchestrator.cli import options
from orchestrator.cli.app import err, out, warn
from orchestrator.planning import submission
from orchestrator.planning.models import Offer
from orchestrator.reporting import progress
from orchestrator.similar.answer import MOST, Answer, Neighbour, Question, answer
from orchestrator.similar.answer_json import probabilities, values_of
from orchestrator.similar.shelf import IndexShelf, Refinement
from orchestrator.steering.controls import begin

_STAGES = (Stage.PURIFY, Stage.SEGMENT, Stage.CLASSIFY)
_DAY = ["%Y-%m-%d"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(similar)


def similar(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="An image file, or BATCH/INDEX of a result.", show_default=False)
    ],
    home: options.Home = options.DEFAULT_HOME,
    count: Annotated[int, typer.Option("--count", min=1, max=MOST, help="How many cases.")] = 5,
    regions: Annotated[
        list[int] | None,
        typer.Option("--region", min=0, help="Compare only this region of the image; may be given several times."),
    ] = None,
    diagnosis: Annotated[str | None, typer.Option("--diagnosis", help="Only cases of this diagnosis.")] = None,
    site: Annotated[str | None, typer.Option("--site", help="Only cases at this site of the body.")] = None,
    since: Annotated[
        datetime | None, typer.Option("--since", formats=_DAY, help="Only cases of this day or later.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", formats=_DAY, help="Only cases of this day or earlier.")
    ] = None,
    same: Annotated[bool, typer.Option("--same", help="Include cases of the same lesion or person.")] = False,
    tenant: Annotated[str, typer.Option("--tenant", help="Tenant that the file belongs to.")] = "default",
    plain: options.AsJson = False,
) -> None:
    """Show the cases most similar to an image, and which regions match; a file is first processed as a live batch.

    Similarities say which pictures look alike. They are neither probabilities nor a diagnosis.
    """
    refinement = Refinement(diagnosis, site, _day(since), _day(until))
    batch, _, index = image.rpartition("/")
    if not Path(image).exists() and batch and index.isdecimal():
        with options.results(home) as store:
            _show(store, _result(store, batch, int(index)), count, refinement, regions, same, plain)
        return
    record, store = _processed(image, home, tenant)
    _show(store, record, count, refinement, regions, same, plain)


def _show(
    store: ObjectStore,
    record: ResultRecord,
    count: int,
    refinement: Refinement,
    regions: list[int] | None,
    same: bool,
    plain: bool,
) -> None:
    question = Question(
        record, count, refinement, tuple(dict.fromkeys(regions or ())), same, _tenant(store, record)
    )
    found = answer(store, IndexShelf(), question)
    text = json.dumps(values_of(record, found), indent=2) if plain else "\n".join(_sentences(record, found))
    out.print(text, markup=False, soft_wrap=True, highlight=False)


def _tenant(store: ObjectStore, record: ResultRecord) -> str | None:
    """The tenant whose cases are searched: that of the batch, if its name belongs to one."""
    tenant = named(store, record.batch).order.tenant
    return tenant if layout.is_owned(record.batch, tenant) else None


def _day(given: datetime | None) -> date | None:
    return given.date() if given is not None else None


def _result(store: ObjectStore, batch: str, index: int) -> ResultRecord:
    named(store, batch)
    try:
        return read(store, layout.result(batch, index), ResultRecord)
    except ObjectNotFound as error:
        raise UsageError(f"image {index} of batch {batch!r} has no result") from error


def _processed(image: str, home: Path, tenant: str) -> tuple[ResultRecord, ObjectStore]:
    """The result of a file, which the running stack processes."""
    settings, store, ledger = options.connect(home)
    order = submission.order(settings, _STAGES, {}, lane="live", tenant=tenant)
    prepared = submission.prepare(
        order, [image], settings, store, Offer.of(settings, warn), filters=Filters(), audit=store.audit
    )
    batch = prepared.plan(submission.name_for(None, tenant, settings), store)
    begin(store, ledger, batch)
    with err.status("Processing the image"):
        progress.wait(ledger, store, batch.name)
    found = [outcome.record for outcome in outcomes(store, batch)]
    if len(found) != 1:
        raise UsageError(f"{image} holds {len(found)} images: name one, as {batch.name}/0")
    if isinstance(found[0], FailureRecord):
        raise PermanentError(found[0].message, reason=found[0].reason)
    return found[0], store


def _sentences(record: ResultRecord, found: Answer) -> Iterator[str]:
    yield f"image {record.index} of batch {record.batch}: {_probable(probabilities(record))}"
    model = f"{found.model.name} {found.model.version}"
    version = "" if found.version is None else f" version {found.version}"  # not shown to a tenant
    yield f"index{version} of {model}: {found.held:,} cases; not held yet: {found.waiting:,} images"
    if found.why:
        yield found.why
    for one in found.neighbours:
        yield from _case(one)


def _probable(by_label: dict[str, float]) -> str:
    ordered = sorted(by_label.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{label.replace('_', ' ')} {p:.2f}" for label, p in ordered) or "no probabilities"


def _case(one: Neighbour) -> Iterator[str]:
    known = one.facts.diagnosis
    what = f"{known} (known)" if known else f"{(one.label or 'no class').replace('_', ' ')} (most probable)"
    yield f"{one.similarity:.2f}  {one.batch}/{one.index}  {what}  {one.name}"
    regions = ", ".join(f"region {match.region} {match.counted:.3f}" for match in one.matches)
    yield f"      whole lesion {one.whole_counted:.2f}; {regions}"
