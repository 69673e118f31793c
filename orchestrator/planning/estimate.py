"""The estimate of what an order would come to (``--dry-run``): nothing is written."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from dermbatch import layout
from dermbatch.errors import PermanentError
from dermbatch.records.asked import ModelChoice, Order
from dermbatch.records.outcome import KnownImage, StageRecord
from dermbatch.stages import FEEDS, Stage
from dermbatch.store import ObjectStore, split_uri
from dermbatch.stored import read_if_any
from orchestrator.batches.history import History, read_history
from orchestrator.batches.outcomes import in_order
from orchestrator.planning.dedup import Contents
from orchestrator.planning.intake.candidates import Candidate, Item, LeftOut, Skipped
from orchestrator.planning.privacy.deidentifier import Deidentifier

LOOKED_INTO = 1000
"""Known images whose stages are really looked up; of more than that, this many are drawn evenly."""

_AT_A_TIME = 16


@dataclass(frozen=True)
class Estimate:
    """What an order would come to.

    Attributes:
        images: Images that the batch would have.
        refused: Of these, inputs that fail without a worker.
        skipped: Files that are no images.
        left_out: Files that the filters leave out.
        duplicates: Images with the same content as an earlier one.
        unread: Members of archives that were not unpacked, so they count neither as duplicates nor as done.
        bytes: Bytes of all images.
        done: Images that need no stage, because they are known with the requested models.
        about: Whether ``done`` and ``to_run`` are estimated from a sample.
        to_run: How often each stage would be run.
        batches: Number of closed batches that the times below were measured in; if there is none, or a stage was
            never run, there are no times.
        slots: Worker slots that are assumed.
        seconds: Seconds from beginning to end.
        gpu_seconds: The same times the number of GPUs.
        finished: When it would be finished if begun now.
        cost: At the price that was given.
    """

    images: int
    refused: int
    skipped: int
    left_out: int
    duplicates: int
    unread: int
    bytes: int
    done: int
    about: bool
    to_run: dict[Stage, int]
    batches: int = 0
    slots: float | None = None
    seconds: float | None = None
    gpu_seconds: float | None = None
    finished: datetime | None = None
    cost: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = asdict(self)
        values["to_run"] = {stage.value: count for stage, count in self.to_run.items()}
        values["finished"] = self.finished.isoformat() if self.finished else None
        return values


def estimate(
    order: Order,
    walk: Iterable[Item],
    store: ObjectStore,
    *,
    now: datetime,
    slots: int | None = None,
    price: float | None = None,
    gpus: int = 1,
    unpack: bool = False,
    deidentify: Deidentifier | None = None,
) -> Estimate:
    """Walk the inputs, look up what is known, and calculate, in constant memory.

    Args:
        order: The order; its models without a version match any version
            (:func:`orchestrator.planning.models.pinned` gives the newest).
        walk: The inputs; ``intake.walk(inputs, unpack=False)`` leaves archives packed.
        store: Read only.
        now: The time from which ``finished`` counts.
        slots: Worker slots that there will be; by default as many as in the measurements.
        price: Price of one GPU for an hour, in any currency.
        gpus: How many GPUs are paid for while the batch runs.
        unpack: Whether members of archives are read for their contents, as files always are.
        deidentify: Makes the copies that would be uploaded, where a profile is asked for.

    Raises:
        StoreUnavailable: If the store fails.
    """
    with Contents() as contents:
        counted = _count(walk, contents, unpack, deidentify)
        found = _coverage(order, store, contents)
    new_images = counted.images - counted.refused - counted.duplicates - found.images
    plain = Estimate(
        images=counted.images,
        refused=counted.refused,
        skipped=counted.skipped,
        left_out=counted.left_out,
        duplicates=counted.duplicates,
        unread=counted.unread,
        bytes=counted.bytes,
        done=found.done,
        about=found.about,
        to_run={stage: new_images + found.to_run[stage] for stage in order.stages},
    )
    history = read_history(store)
    if history is None:
        return plain
    used = slots or history.slots
    seconds = _seconds(plain, new_images + found.images - found.done, history, used)
    if seconds is None:
        return replace(plain, batches=history.batches, slots=used)
    return replace(
        plain,
        batches=history.batches,
        slots=used,
        seconds=seconds,
        gpu_seconds=seconds * gpus,
        finished=now + timedelta(seconds=seconds),
        cost=None if price is None else seconds * gpus / 3600 * price,
    )


def _seconds(plain: Estimate, images: int, history: History, slots: float) -> float | None:
    """Seconds for this many images with something to run; none if a stage was never measured."""
    if any(count and stage not in history.stage_seconds for stage, count in plain.to_run.items()):
        return None
    stages = sum(count * history.stage_seconds[stage] for stage, count in plain.to_run.items() if count)
    return (images * history.other_seconds + stages) / max(1, min(slots, images))


@dataclass
class _Counted:
    images: int = 0
    refused: int = 0
    skipped: int = 0
    left_out: int = 0
    duplicates: int = 0
    unread: int = 0
    bytes: int = 0


def _count(walk: Iterable[Item], contents: Contents, unpack: bool, deidentify: Deidentifier | None) -> _Counted:
    counted, digested = _Counted(), _Digested(deidentify)
    for item in walk:
        if isinstance(item, Skipped):
            counted.skipped += 1
        elif isinstance(item, LeftOut):
            counted.left_out += 1
        else:
            index, counted.images = counted.images, counted.images + 1
            try:
                looks, size = _looks(item, unpack, digested)
            except PermanentError:
                looks, size = _Looks(), None
                counted.refused += 1
            else:
                counted.refused += item.refusal is not None
                counted.unread += item.packed and not unpack and item.refusal is None
            counted.bytes += size or 0
            counted.duplicates += looks.earlier(contents, index) is not None
    return counted


class _Digested:
    """Digest and size of what was read last, so that a file is read only once for all its frames."""

    def __init__(self, deidentify: Deidentifier | None) -> None:
        self._deidentify = deidentify
        self._read: Callable[[], bytes] | None = None
        self._found = ("", "", 0)

    def of(self, read: Callable[[], bytes]) -> tuple[str, str, int]:
        """The ETag that the store would give the upload, unless it encrypts; its SHA-256; and the bytes."""
        if read is not self._read:
            data = read()
            if self._deidentify is not None:
                data = self._deidentify.copy(data).made.data
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
            self._read, self._found = read, (etag, hashlib.sha256(data).hexdigest(), len(data))
        return self._found


@dataclass(frozen=True)
class _Looks:
    """What is known of an image before it is planned: its fingerprint, its content or the object that has it."""

    fingerprint: str | None = None
    content: str | None = None
    object_name: str | None = None

    def earlier(self, contents: Contents, index: int) -> int | None:
        return contents.first(self.fingerprint, index, content=self.content, object_name=self.object_name)


def _looks(candidate: Candidate, unpack: bool, digested: _Digested) -> tuple[_Looks, int | None]:
    """What the image would look like in a plan, and its bytes."""
    if candidate.refusal is not None:
        return _Looks(), candidate.size
    if candidate.uri is not None:
        looks = layout.fingerprint(candidate.uri, candidate.etag, candidate.size, candidate.frame)
        return _Looks(looks, object_name=f"{candidate.frame or ''}|{candidate.uri}"), candidate.size
    if candidate.read is None or (candidate.packed and not unpack):
        return _Looks(), candidate.size
    etag, sha256, size = digested.of(candidate.read)
    looks = layout.fingerprint("", etag, size, candidate.frame)
    return _Looks(looks, layout.content(sha256, candidate.frame)), size


@dataclass(frozen=True)
class _Coverage:
    """What the cache has of the counted contents: how many images are done, and what has to be run."""

    images: int
    done: int
    to_run: dict[Stage, int]
    about: bool


def _coverage(order: Order, store: ObjectStore, contents: Contents) -> _Coverage:
    """Look up each image if there are few, else a sample; objects with unknown contents are read for this.

    If there are many, contents that are known here are first compared with the list of all known ones.
    """
    few = contents.count(known=False) <= LOOKED_INTO
    if not few:
        prefix, _, suffix = layout.known("*", order.pool).partition("*")
        for info in store.list(store.bucket, prefix):
            contents.mark(info.key.removeprefix(prefix).removesuffix(suffix))
    images = contents.count(known=not few)
    known = _looked_up(images, contents.draw(LOOKED_INTO, known=not few), partial(_missing, order, store))
    objects, drawn = contents.unread(LOOKED_INTO)
    read = _looked_up(objects, drawn, partial(_missing_of_object, order, store))
    to_run = {stage: known.to_run[stage] + read.to_run[stage] for stage in order.stages}
    return _Coverage(images + objects, known.done + read.done, to_run, known.about or read.about)


def _looked_up(images: int, drawn: list[str], missing_of: Callable[[str], set[Stage]]) -> _Coverage:
    """What this many images lack, estimated from those that were drawn."""
    missing: Counter[Stage] = Counter()
    done = 0
    for stages in in_order(missing_of, drawn, _AT_A_TIME):
        missing.update(stages)
        done += not stages
    scale = images / len(drawn) if drawn else 1
    to_run = Counter({stage: round(count * scale) for stage, count in missing.items()})
    return _Coverage(images, round(done * scale), to_run, len(drawn) < images)


def _missing_of_object(order: Order, store: ObjectStore, name: str) -> set[Stage]:
    """The same for an object, by the digest that the store vouches for, else by its bytes."""
    frame, _, uri = name.partition("|")
    try:
        opened = store.opened(*split_uri(uri))
        with closing(opened):
            sha256 = opened.sha256 or hashlib.sha256(opened.read()).hexdigest()
    except PermanentError:  # gone, or closed to us: the worker will say so
        return set(order.stages)
    return _missing(order, store, layout.content(sha256, int(frame) if frame else None))


def _missing(order: Order, store: ObjectStore, content: str) -> set[Stage]:
    """The asked stages that are not known of this image with the asked models, each fed by the ones before."""
    known = read_if_any(store, layout.known(content, order.pool), KnownImage)
    if known is None:
        return set(order.stages)
    there: dict[Stage, str] = {}
    for stage in order.stages:
        fed_by = {feeding: there.get(feeding) for feeding in FEEDS[stage] if feeding in order.stages}
        for record in known.stages.values():
            if record.stage == stage and record.fed_by == fed_by and _is_asked(record, order.models[stage]):
                there[stage] = record.key
    return set(order.stages) - set(there)


def _is_asked(record: StageRecord, choice: ModelChoice) -> bool:
    return record.model.name == choice.name and choice.version in (None, record.model.version)
