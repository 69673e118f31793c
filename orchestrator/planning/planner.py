"""The planner: turns candidates into a manifest, the durable record of what was ordered.

It writes ``plan.json``, the batch's control record, each part of the manifest followed by an updated
``plan.json``, and finally ``batch.json``. A planner that was killed resumes after the last part it wrote. There is
no batch until ``batch.json`` exists.
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
"""Fields of an order that may differ when a plan is resumed."""


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
    """Upload what workers cannot read in place, write the manifest, then the batch record; or resume a begun plan.

    Memory use does not depend on the number of candidates.

    Args:
        name: Name of the new batch.
        order: What was ordered; its de-identification is taken from ``deidentify``.
        walk: What :class:`~orchestrator.planning.intake.intake.Intake` finds. If it is another iterable, items
            that the plan already has are skipped.
        store: Uploads go into its incoming bucket, records into its result bucket.
        deidentify: Makes the de-identified copies if the order has a profile; the walk must then read every file.
        told: Called after each part with the plan so far.
        check: Called likewise; if it raises :class:`UsageError`, there is no batch, and plan and uploads are
            deleted.

    Raises:
        UsageError: If the name is taken, if a plan of other inputs was begun under it, if there is no candidate,
            or if ``check`` raises it.
        StoreUnavailable: If the store fails. There is no batch then; the same call resumes the plan.
        StoreRefused: If the store may not be written to.
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
        return read_batch(store, name)  # another planner went on with the same plan, and was first
    return batch


def planned(
    name: str,
    order: Order,
    walk: Walk | Iterable[Item],
    store: ObjectStore,
    deidentify: Deidentifier | None = None,
) -> Batch | None:
    """The batch that the same order made earlier under this name; ``None`` if the name is free.

    Lane, weight, limits of failures and the other fields that steer may differ: those of the batch stay in force.

    Raises:
        UsageError: If the name belongs to another order.
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
    """Whether a batch of this name exists."""
    try:
        read_batch(store, name)
    except ObjectNotFound:
        return False
    return True


def abandon(store: ObjectStore, batch: str) -> None:
    """Delete a plan that never became a batch, so that the next one under its name starts from the beginning."""
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
    """A plan of which nothing has been written yet."""
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
    """The fields in which two plans differ, as words for a message; empty if they are the same plan."""
    same = [field for field in Order.model_fields if field not in _STEERING]
    other = [field for field in ("inputs", "filters") if getattr(begun, field) != getattr(fresh, field)]
    other += [field for field in same if getattr(begun.order, field) != getattr(fresh.order, field)]
    return " and ".join(other).replace("_", " ")


def _begun(
    name: str, order: Order, walk: Walk | Iterable[Item], store: ObjectStore, deidentify: Deidentifier | None
) -> PlanRecord:
    """The plan under this name: a new one, or the one that was begun before, as far as it got."""
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
    """Note the contents of the parts that were written before."""
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
    """A part of the manifest under construction, with what it adds to the counts of its plan."""

    record: PlanRecord
    lines: list[bytes] = field(default_factory=list)
    bytes: int = 0
    skipped: int = 0
    sidecars: int = 0
    own_results: int = 0
    left_out: int = 0
    duplicates: int = 0

    def add(self, entry: ManifestEntry) -> None:
        """Add an image."""
        self.duplicates += entry.duplicate_of is not None
        self.bytes += entry.size or 0
        self.lines.append(entry.to_json())

    def skip(self, item: Skipped) -> None:
        """Count a file that is passed over."""
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
    """Write the parts in turn; yields the plan after each. The last also counts the files after the last image."""
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
