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

from dermbatch import __version__, layout
from dermbatch.errors import ObjectNotFound, RecordDamaged, UsageError
from dermbatch.records.asked import Batch, BatchControl, Filters, ManifestEntry, Order, PlanRecord, Position
from dermbatch.store import ObjectStore
from dermbatch.stored import JSON_LINES, read, write, write_once
from orchestrator.batches.entries import content_of, read_batch, read_manifest_part
from orchestrator.planning.dedup import Contents
from orchestrator.planning.intake.candidates import Item, LeftOut, Skipped, Walk
from orchestrator.planning.privacy.deidentifier import Deidentifier
from orchestrator.planning.uploading import entered

_STEERING = {"lane", "weight", "max_failed_share", "shares", "wait_objective"}
"""What may be another where a plan is gone on with."""


def plan(
    name: str,
    order: Order,
    walk: Walk | Iterable[Item],
    store: ObjectStore,
    *,
    deidentify: Deidentifier | None = None,
    told: Callable[[PlanRecord], None] = lambda record: None,
    check: Callable[[PlanRecord], None] = lambda record: None,
) -> Batch:
    """Upload what has to be uploaded, write the manifest, then the batch record; or go on where a plan stopped.

    Memory does not grow with the number of candidates.

    Args:
        name: Of the new batch.
        order: What was asked; how it is de-identified, ``deidentify`` says.
        walk: What :class:`~orchestrator.planning.intake.intake.Intake` finds. Of items in any other iterable,
            those that were taken before are passed over.
        store: Uploads go into its incoming bucket, records into its result bucket.
        deidentify: Takes identity off the images, where a profile is asked for; the walk must read them all.
        told: Called after every part with how far planning has come.
        check: Called likewise; where it raises, there is no batch, and plan and uploads are
            deleted.

    Raises:
        UsageError: Where the batch name is taken, or a plan of other inputs was begun under it, or there is not
            one candidate, or ``check`` says so.
        StoreUnavailable: Where the store fails; the batch then does not exist, and the same call goes on.
        StoreRefused: Where the store may not be written.
    """
    layout.check_batch_name(name)
    _check_free(store, name)
    record = _begun(name, order, walk, store, deidentify)
    _control(name, order, store)
    position = deidentify.unlocked(record.position) if deidentify else record.position
    with Contents() as contents, closing(_items(walk, record, position)) as items:
        _remember(store, record, contents)
        for so_far in _parts(record, items, store, contents, deidentify):
            told(record := so_far)
            _checked(record, store, check)
    if record.images == 0:
        _forget(store, name)
        own = f"{record.own_results} of them results of Dermbatch's own, " if record.own_results else ""
        others = f"{record.skipped} other files, {own}{record.left_out} left out by filters"
        raise UsageError(f"no image among the inputs ({others})")
    asked = record.model_dump(exclude={"inputs", "filters", "position"})
    batch = Batch.model_validate(asked)
    if not write_once(store, layout.batch_record(name), batch):
        return read_batch(store, name)  # of the same plan, by another planner that went on with it too
    return batch


def planned(
    name: str,
    order: Order,
    walk: Walk | Iterable[Item],
    store: ObjectStore,
    deidentify: Deidentifier | None = None,
) -> Batch | None:
    """The batch that the very same order has become before; none where the name is free.

    Lane, weight and share of failures may be others: they are those of the batch.

    Raises:
        UsageError: Where another order has the name.
    """
    try:
        batch = read_batch(store, name)
        begun = read(store, layout.plan_record(name), PlanRecord)
    except (ObjectNotFound, RecordDamaged):
        _check_free(store, name)
        return None
    if other := _differences(begun, _fresh(name, order, walk, deidentify)):
        raise UsageError(f"{_taken(name)}, of other {other}; choose another name with --batch")
    return batch


def is_batch(store: ObjectStore, name: str) -> bool:
    """Whether there is a batch of this name."""
    try:
        read_batch(store, name)
    except ObjectNotFound:
        return False
    return True


def abandon(store: ObjectStore, batch: str) -> None:
    """Forget a plan that was begun and never became a batch, so that the next one begins anew."""
    try:
        read_batch(store, batch)
    except ObjectNotFound:
        _forget(store, batch)


def _check_free(store: ObjectStore, name: str) -> None:
    if is_batch(store, name):
        raise UsageError(f"{_taken(name)}; choose another name with --batch")


def _taken(name: str) -> str:
    return f"there is a batch {name!r} already"


def _fresh(name: str, order: Order, walk: Walk | Iterable[Item], deidentify: Deidentifier | None) -> PlanRecord:
    """A plan of which nothing is written yet."""
    fresh = PlanRecord(
        name=name,
        created=datetime.now(UTC),
        order=order.model_copy(update={"deidentified": deidentify.record if deidentify else None}),
        software=__version__,
        inputs=walk.inputs if isinstance(walk, Walk) else (),
        filters=walk.filters if isinstance(walk, Walk) else Filters(),
    )
    return fresh if deidentify is None else deidentify.hidden(fresh)


def _differences(begun: PlanRecord, fresh: PlanRecord) -> str:
    """What two plans under one name do not have in common, for a sentence; empty where it is one and the same."""
    same = [field for field in Order.model_fields if field not in _STEERING]
    other = [field for field in ("inputs", "filters") if getattr(begun, field) != getattr(fresh, field)]
    other += [field for field in same if getattr(begun.order, field) != getattr(fresh.order, field)]
    return " and ".join(other).replace("_", " ")


def _begun(
    name: str, order: Order, walk: Walk | Iterable[Item], store: ObjectStore, deidentify: Deidentifier | None
) -> PlanRecord:
    """The plan under this name, as far as it has come."""
    known = any(True for _ in store.list(store.bucket, layout.all_known(order.pool)))
    fresh = _fresh(name, order, walk, deidentify).model_copy(update={"known": known})
    key = layout.plan_record(name)
    if write_once(store, key, fresh):
        return fresh
    try:
        begun = read(store, key, PlanRecord)
    except RecordDamaged as error:
        raise UsageError(
            f"the begun plan of batch {name!r} (plan.json) is damaged; choose another name with --batch"
        ) from error
    if other := _differences(begun, fresh):
        raise UsageError(
            f"a plan of batch {name!r} was begun with other {other}; "
            "give the same ones to go on with it, or choose another name with --batch"
        )
    return begun.model_copy(update={"order": fresh.order})


def _control(name: str, order: Order, store: ObjectStore) -> None:
    """Make the batch findable before it exists; a pause that was asked for in the meantime stays."""
    key = layout.control(name)
    control = BatchControl.of(order)
    if not write_once(store, key, control):
        update = {"lane": order.lane, "weight": order.weight}
        write(store, key, read(store, key, BatchControl).model_copy(update=update))


def _forget(store: ObjectStore, batch: str) -> None:
    store.delete(layout.plan_record(batch))
    store.delete(layout.control(batch))


def _checked(record: PlanRecord, store: ObjectStore, check: Callable[[PlanRecord], None]) -> None:
    try:
        check(record)
    except UsageError:
        _forget(store, record.name)
        store.delete_prefix(store.bucket, layout.batch_prefix(record.name))
        store.delete_prefix(store.incoming_bucket, f"{record.name}/")  # what was uploaded for it
        raise


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
    bytes: int = 0
    skipped: int = 0
    sidecars: int = 0
    own_results: int = 0
    left_out: int = 0
    duplicates: int = 0

    def add(self, entry: ManifestEntry) -> None:
        """Take an image in."""
        self.duplicates += entry.duplicate_of is not None
        self.bytes += entry.size or 0
        self.lines.append(entry.to_json())

    def skip(self, item: Skipped) -> None:
        """Count what is passed over."""
        self.skipped += 1
        self.sidecars += item.why == "sidecar"
        self.own_results += item.why == "own_result"

    def whole(self, position: Position) -> PlanRecord:
        """The plan after this part."""
        return self.record.model_copy(
            update={
                "position": position,
                "images": self.record.images + len(self.lines),
                "bytes": self.record.bytes + self.bytes,
                "skipped": self.record.skipped + self.skipped,
                "sidecars": self.record.sidecars + self.sidecars,
                "own_results": self.record.own_results + self.own_results,
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
            part.skip(item)
        elif isinstance(item, LeftOut):
            part.left_out += 1
        elif entry is not None:
            first = contents.first(content_of(entry), entry.index)
            part.add(entry if first is None else entry.model_copy(update={"duplicate_of": first}))
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
        store.put(layout.manifest_part(record.name, name), body, JSON_LINES)
        write(store, layout.plan_record(record.name), record)
    return record
