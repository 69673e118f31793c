"""Resegment: a batch that runs images of earlier batches again with pinned models, and is compared with them.

The images are read from the earlier manifests, a part at a time, and planned like any inputs: the plan notes
duplicates, and resumes after a kill. Refused inputs, which never were images, are left out; images that failed are
tried again, since another model may do better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from dermbatch import layout, stages
from dermbatch.errors import UsageError
from dermbatch.records.asked import (
    Batch,
    Earlier,
    Filters,
    ManifestEntry,
    ModelChoice,
    Order,
    PlanRecord,
    Position,
    SupportChoice,
)
from dermbatch.records.outcome import ModelUsed, ResultRecord
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import read_if_any
from orchestrator.batches.entries import named, read_batch, read_manifest_part
from orchestrator.planning.intake.candidates import Candidate, Item, LeftOut, Walk
from orchestrator.planning.planner import plan

Check = Callable[[PlanRecord], None]

_RECORDS_LOOKED_AT = 20
"""Number of results of a batch in which to look for the models that ran."""


def resegment_order(asked: Order, batches: Sequence[str], store: ObjectStore) -> Order:
    """The order of a resegment: stages and models of the earlier batches, except for those given.

    A model that an earlier batch did not pin is pinned to the version that its results name, so that only what was
    asked for changes.

    Args:
        asked: The request, with only the new models, which must name their versions.
        batches: Names of the earlier batches; an image in several of them is compared with the first.
        store: Where the batches are.

    Raises:
        UsageError: If a version or a batch is missing, or the batches differ in a model that is not given, or
            belong to several tenants.
    """
    if not batches:
        raise UsageError("name at least one earlier batch")
    models = asked.models
    if not models:
        raise UsageError("name what to run again: --model STAGE=NAME@VERSION")
    for stage, choice in models.items():
        if choice.version is None:
            raise UsageError(
                f"{stage}={choice.name}: pin a version ({stage}={choice.name}@VERSION), otherwise the "
                f"comparison would not say what was compared"
            )
    names = tuple(dict.fromkeys(batches))
    earlier = [named(store, name) for name in names]
    whose = _tenant(earlier)
    ran = stages.closure(frozenset(stage for batch in earlier for stage in batch.order.stages) | set(models))
    chosen = {stage: models[stage] if stage in models else _common(store, stage, earlier) for stage in ran}
    changes: dict[str, object] = {**whose, "models": chosen, "stages": ran, "compared_with": names}
    if asked.support is None and Stage.SEGMENT in ran and Stage.SEGMENT not in models:
        changes["support"] = _common_support(earlier)
    return asked.model_copy(update=changes)


def _tenant(earlier: Sequence[Batch]) -> dict[str, str | None]:
    """The tenant of the batches, and whose known results they share."""
    whose = dict.fromkeys((batch.order.tenant, batch.order.shares) for batch in earlier)
    if len(whose) > 1:
        tenants = ", ".join(sorted({tenant for tenant, _ in whose}))
        raise UsageError(
            f"batches of several tenants, or that share results differently ({tenants}), cannot be "
            f"combined; name those of one tenant"
        )
    tenant, shares = next(iter(whose))
    return {"tenant": tenant, "shares": shares}


def plan_resegment(
    name: str,
    asked: Order,
    batches: Sequence[str],
    store: ObjectStore,
    *,
    admit: Callable[[Order], tuple[Order, Check]] = lambda order: (order, lambda record: None),
) -> Batch:
    """Plan a batch that runs images of earlier batches again; the same call resumes after a kill.

    Args:
        name: Name of the batch.
        asked: As for :func:`resegment_order`.
        batches: Likewise.
        store: Likewise.
        admit: Called with the whole order; returns it as its tenant may have it, and the check to run while
            planning.

    Raises:
        UsageError: As :func:`resegment_order`; or where the name is taken, there is no image, or the tenant may
            not have it.
        PermanentError: With reason ``manifest_damaged``, where an earlier manifest is.
        StoreUnavailable, StoreRefused: If the store fails; the batch then does not exist.
    """
    order, check = admit(resegment_order(asked, batches, store))
    return plan(name, order, earlier_images(store, order.compared_with), store, check=check)


def earlier_images(store: ObjectStore, batches: Sequence[str]) -> Walk:
    """The images of batches, as a planner walks through inputs; one part of a manifest in memory at a time."""

    def begin(position: Position) -> Iterator[Item]:
        for number, name in islice(enumerate(batches), position.input, None):
            start = int(position.after) + 1 if number == position.input and position.after is not None else 0
            yield from _images(store, number, name, start)

    return Walk(inputs=tuple(f"batch:{name}" for name in batches), filters=Filters(), begin=begin)


def _images(store: ObjectStore, number: int, name: str, start: int) -> Iterator[Item]:
    batch = read_batch(store, name)
    images, grown = batch.images, batch.rule is not None
    while start < images:
        part, offset = layout.part_of(start)
        for entry in read_manifest_part(store, name, part, images=images, grown=grown)[offset:]:
            yield _item(number, name, entry)
        start += layout.PART_SIZE - offset


def _item(number: int, batch: str, entry: ManifestEntry) -> Item:
    position = Position(input=number, after=str(entry.index))
    if entry.refusal is not None or entry.source is None:
        return LeftOut(entry.name, position)
    return Candidate(
        name=entry.name,
        uri=entry.source,
        size=entry.size,
        etag=entry.etag,
        sha256=entry.sha256,
        frame=entry.frame,
        earlier=Earlier(batch=batch, index=entry.index),
        may_have_text=entry.may_have_text,
        position=position,
    )


def _common_support(batches: Sequence[Batch]) -> SupportChoice | None:
    """The support that the segment model of the batches was shown; none if it was shown nothing."""
    shown = {batch.order.support for batch in batches if Stage.SEGMENT in batch.order.stages}
    if len(shown) > 1:
        raise UsageError(
            "the batches ran segment with different supports; give segment=NAME@VERSION and --support too"
        )
    return next(iter(shown), None)


def _common(store: ObjectStore, stage: Stage, batches: Sequence[Batch]) -> ModelChoice:
    """The model that the batches ran a stage with."""
    chosen = {_choice(store, batch, stage) for batch in batches if stage in batch.order.stages}
    chosen = {(name, version) for name, version in chosen if name is not None}
    if len(chosen) > 1:
        there = ", ".join(sorted(f"{name}@{version}" if version else str(name) for name, version in chosen))
        raise UsageError(f"the batches ran {stage} with different models ({there}); give {stage}=NAME@VERSION too")
    if not chosen:  # a stage that only the new request requires
        raise UsageError(f"no earlier batch ran {stage}, which is needed; give {stage}=NAME@VERSION too")
    ((name, version),) = chosen
    return ModelChoice(name=str(name), version=version)


def _choice(store: ObjectStore, batch: Batch, stage: Stage) -> tuple[str | None, str | None]:
    asked = batch.order.models.get(stage)
    if asked is not None and asked.version is not None:
        return asked.name, asked.version
    used = _used(store, batch, stage)
    if used is not None:
        return used.name, used.version
    return (asked.name, None) if asked is not None else (None, None)


def _used(store: ObjectStore, batch: Batch, stage: Stage) -> ModelUsed | None:
    """The model that ran a stage, according to the first results; none if there is no result."""
    infos = store.list(store.bucket, f"{layout.batch_prefix(batch.name)}results/")
    for info in islice(infos, _RECORDS_LOOKED_AT):
        record = read_if_any(store, info.key, ResultRecord)
        if record is not None and stage in record.stages:
            return record.stages[stage].model
    return None
