"""The planner: turns candidates into a manifest, the durable record of what was asked.

What is written, in this order: ``plan.json``, the control of the batch, the parts of the manifest with
``plan.json`` anew after each, and last ``batch.json``. A planner that was killed goes on behind the last part;
until ``batch.json`` is there, there is no batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice

from pydantic import ValidationError

from dermbatch import __version__, layout
from dermbatch.errors import ObjectNotFound, UsageError
from dermbatch.records import (
    Batch,
    BatchControl,
    Filters,
    Lane,
    ModelChoice,
    PlanRecord,
    Position,
)
from dermbatch.stages import ORDER, Stage
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import content_of, read_batch, read_manifest_part
from orchestrator.planning.dedup import Contents
from orchestrator.planning.intake.candidates import Item, LeftOut, Skipped, Walk
from orchestrator.planning.privacy.taking import Deidentifier
from orchestrator.planning.uploading import entered

__all__ = ["Order", "abandon", "plan", "read_batch", "read_manifest_part"]

_JSON = "application/json"


@dataclass(frozen=True)
class Order:
    """What the user asked to be done with the inputs; see :class:`dermbatch.records.Asked`."""

    batch: str
    models: dict[Stage, ModelChoice]
    stages: tuple[Stage, ...] = ORDER
    lane: Lane = "bulk"
    weight: int = 1
    max_failed_share: float | None = None
    compared_with: tuple[str, ...] = ()
    dicom: bool = False
    send_to: str | None = None
    output: str | None = None


def plan(
    order: Order,
    walk: Walk | Iterable[Item],
    store: ObjectStore,
    *,
    deidentify: Deidentifier | None = None,
    told: Callable[[PlanRecord], None] = lambda record: None,
) -> Batch:
    """Upload what has to be uploaded, write the manifest, then the batch record; or go on where a plan stopped.

    Memory does not grow with the number of candidates.

    Args:
        order: What was asked.
        walk: What :class:`~orchestrator.planning.intake.intake.Intake` finds. Of items in any other iterable,
            those that were taken before are passed over.
        store: Uploads go into its incoming bucket, records into its result bucket.
        deidentify: Takes identity off the images, where a profile is asked for; the walk must read them all.
        told: Called after every part with how far planning has come.

    Raises:
        UsageError: Where the batch name is taken, or a plan of other inputs was begun under it, or there is not
            one candidate.
        StoreUnavailable: Where the store fails; the batch then does not exist, and the same call goes on.
        StoreRefused: Where the store may not be written.
    """
    layout.check_batch_name(order.batch)
    _check_free(store, order.batch)
    record = _begun(order, walk, store, deidentify)
    _control(order, store)
    position = deidentify.unlocked(record.position) if deidentify else record.position
    with Contents() as contents, closing(_items(walk, record, position)) as items:
        _remember(store, record, contents)
        for so_far in _parts(record, items, store, contents, deidentify):
            told(record := so_far)
    if record.images == 0:
        _forget(store, order.batch)
        others = f"{record.skipped} other files, {record.left_out} left out by filters"
        raise UsageError(f"no image among the inputs ({others})")
    asked = record.model_dump(exclude={"inputs", "filters", "position"})
    batch = Batch.model_validate(asked)
    if not store.put_if_absent(layout.batch_record(order.batch), batch.to_json(), _JSON):
        _check_free(store, order.batch)
    return batch


def abandon(store: ObjectStore, batch: str) -> None:
    """Forget a plan that was begun and never became a batch, so that the next one begins anew."""
    try:
        read_batch(store, batch)
    except ObjectNotFound:
        _forget(store, batch)


def _check_free(store: ObjectStore, name: str) -> None:
    try:
        read_batch(store, name)
    except ObjectNotFound:
        return
    raise UsageError(f"there is a batch {name!r} already; choose another name with --batch")


def _begun(
    order: Order, walk: Walk | Iterable[Item], store: ObjectStore, deidentify: Deidentifier | None
) -> PlanRecord:
    """The plan under this name, as far as it has come."""
    fresh = PlanRecord(
        name=order.batch,
        created=datetime.now(UTC),
        lane=order.lane,
        weight=order.weight,
        stages=order.stages,
        models=order.models,
        max_failed_share=order.max_failed_share,
        compared_with=order.compared_with,
        deidentified=deidentify.record if deidentify else None,
        dicom=order.dicom,
        send_to=order.send_to,
        output=order.output,
        software=__version__,
        inputs=walk.inputs if isinstance(walk, Walk) else (),
        filters=walk.filters if isinstance(walk, Walk) else Filters(),
    )
    if deidentify is not None:
        fresh = deidentify.hidden(fresh)
    key = layout.plan_record(order.batch)
    if store.put_if_absent(key, fresh.to_json(), _JSON):
        return fresh
    try:
        begun = PlanRecord.model_validate_json(store.get(store.bucket, key))
    except ValidationError as error:
        raise UsageError(
            f"the begun plan of batch {order.batch!r} (plan.json) is damaged; choose another name with --batch"
        ) from error
    same = ("inputs", "filters", "deidentified", "stages", "models", "compared_with", "dicom", "send_to", "output")
    if other := [name for name in same if getattr(begun, name) != getattr(fresh, name)]:
        raise UsageError(
            f"a plan of batch {order.batch!r} was begun with other {' and '.join(other).replace('_', ' ')}; "
            "give the same ones to go on with it, or choose another name with --batch"
        )
    steering = {"lane", "weight", "max_failed_share"}
    return begun.model_copy(update=fresh.model_dump(include=steering))


def _control(order: Order, store: ObjectStore) -> None:
    """Make the batch findable before it exists; a pause that was asked for in the meantime stays."""
    key = layout.control(order.batch)
    control = BatchControl(lane=order.lane, weight=order.weight)
    if not store.put_if_absent(key, control.to_json(), _JSON):
        there = BatchControl.model_validate_json(store.get(store.bucket, key))
        update = {"lane": order.lane, "weight": order.weight}
        store.put(key, there.model_copy(update=update).to_json(), _JSON)


def _forget(store: ObjectStore, batch: str) -> None:
    store.delete(layout.plan_record(batch))
    store.delete(layout.control(batch))


def _remember(store: ObjectStore, record: PlanRecord, contents: Contents) -> None:
    """Note the contents of the parts that are written already."""
    for first in range(0, record.images, layout.PART_SIZE):
        part, _ = layout.part_of(first)
        for entry in read_manifest_part(store, record.name, part, images=record.images):
            contents.first(content_of(entry), entry.index)


def _items(walk: Walk | Iterable[Item], record: PlanRecord, position: Position) -> Generator[Item, None, None]:
    if isinstance(walk, Walk):
        yield from walk.begin(position)
    else:
        yield from islice(walk, record.images + record.skipped + record.left_out, None)


@dataclass
class _Part:
    """A part in the making, and what the plan is once it is written."""

    record: PlanRecord
    lines: list[bytes] = field(default_factory=list)
    skipped: int = 0
    left_out: int = 0
    duplicates: int = 0

    def whole(self, position: Position) -> PlanRecord:
        """The plan after this part."""
        return self.record.model_copy(
            update={
                "position": position,
                "images": self.record.images + len(self.lines),
                "skipped": self.record.skipped + self.skipped,
                "left_out": self.record.left_out + self.left_out,
                "duplicates": self.record.duplicates + self.duplicates,
            }
        )


def _parts(
    record: PlanRecord,
    items: Iterator[Item],
    store: ObjectStore,
    contents: Contents,
    deidentify: Deidentifier | None,
) -> Iterator[PlanRecord]:
    """Write part after part; the plan after each, the last with what is behind its last image."""
    part, position = _Part(record), record.position
    for item, entry in entered(record.name, record.images, items, store, deidentify=deidentify):
        position = item.position
        if isinstance(item, Skipped):
            part.skipped += 1
        elif isinstance(item, LeftOut):
            part.left_out += 1
        elif entry is not None:
            first = contents.first(content_of(entry), entry.index)
            if first is not None:
                part.duplicates += 1
            part.lines.append(entry.model_copy(update={"duplicate_of": first}).to_json())
        if len(part.lines) == layout.PART_SIZE:
            yield (record := _written(part, position, store, deidentify))
            part = _Part(record)
    yield _written(part, position, store, deidentify)


def _written(part: _Part, position: Position, store: ObjectStore, deidentify: Deidentifier | None) -> PlanRecord:
    record = part.whole(deidentify.locked(position) if deidentify else position)
    if part.lines:
        if deidentify is not None:
            deidentify.write_originals(store, record.name, part.record.images, record.images)
        name, _ = layout.part_of(part.record.images)
        body = b"".join(line + b"\n" for line in part.lines)
        store.put(layout.manifest_part(record.name, name), body, "application/x-ndjson")
        store.put(layout.plan_record(record.name), record.to_json(), _JSON)
    return record
