"""How far the readers of a queue agree: with each other, with the model, and with known answers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from typing import Any

from fastapi import APIRouter, Request, Response

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, PermanentError
from dermbatch.images import png
from dermbatch.images.lesion import Mask
from dermbatch.records.outcome import ClassifyOutput, ResultRecord
from dermbatch.records.review import Case, Decision, Queue
from dermbatch.review import agreement
from dermbatch.review.agreement import Overlap, Pair
from dermbatch.review.kept import decisions
from dermbatch.review.leases import Leases
from dermbatch.review.masks import of_runs
from dermbatch.review.queues import named
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import read
from desk.api.answers import json_of
from desk.desk import ThePerson, TheStore
from desk.review.queues import TheLeases
from orchestrator.batches.outcomes import in_order, read_artifact

router = APIRouter(prefix="/v1/queues", tags=["review"])

MODEL, KNOWN = "model", "known answer"
_MOST_ROWS = 500
_HELD = 20_000
_AT_A_TIME = 4


@dataclass(frozen=True)
class Reading:
    """What one reader, the model, or the adjudication says about an image, with a key of its own."""

    reader: str
    key: str
    label: str | None
    mask: Mask | None


@dataclass(frozen=True)
class Looked:
    """An image with its readings: those of readers by name, then the model's and the known one, if any."""

    case: Case
    label: str | None
    source: str
    readings: list[Reading]
    model: Reading | None
    known: Reading | None


class Measured:
    """Recently computed overlaps: decisions never change, and pages are viewed again."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, str], Overlap] = OrderedDict()
        self._lock = threading.Lock()

    def overlap(self, one: Reading, other: Reading) -> Overlap | None:
        """How far two masks agree; none where one is missing."""
        if one.mask is None or other.mask is None or one.mask.shape != other.mask.shape:
            return None
        with self._lock:
            found = self._held.get((one.key, other.key))
        if found is None:
            found = agreement.overlap(one.mask, other.mask)
            with self._lock:
                self._held[one.key, other.key] = found
                while len(self._held) > _HELD:
                    self._held.popitem(last=False)
        return found


@router.get("/{name}/agreement")
def agreed(name: str, request: Request, store: TheStore, leases: TheLeases, person: ThePerson) -> Response:
    """How far readers agree, in all, by reader, class and source; by image where the asker has decided."""
    measured: Measured = request.app.state.measured
    return json_of(request, agreement_of(named(store, name), store, leases, person.name, measured))


def agreement_of(
    queue: Queue, store: ObjectStore, leases: Leases, asker: str, measured: Measured
) -> dict[str, Any]:
    """How far the readers of a queue agree.

    Args:
        queue: The queue.
        store: Has decisions and masks.
        leases: Know who has given up being blind.
        asker: Sees single images only if they have decided on them, or are to adjudicate.
        measured: What was computed before.
    """
    between: list[Pair] = []
    with_model: list[Pair] = []
    with_known: list[Pair] = []
    seen: set[Case] = set()
    adjudicated = 0
    for one in in_order(partial(_looked, store), queue.cases, _AT_A_TIME):
        pairs = partial(_pairs, one, measured)
        between += pairs(combinations(one.readings, 2))
        with_model += pairs((reading, one.model) for reading in one.readings if one.model is not None)
        with_known += pairs((reading, one.known) for reading in one.readings if one.known is not None)
        adjudicated += one.known is not None
        if any(reading.reader == asker for reading in one.readings) or leases.has_opened(one.case, asker):
            seen.add(one.case)
    worst = sorted(between, key=_worst)
    rows = [pair for pair in worst if Case(batch=pair.batch, index=pair.index) in seen]
    return {
        "queue": queue.name,
        "images": len(queue.cases),
        "adjudicated": adjudicated,
        "all": asdict(agreement.group("all", between)),
        "by_readers": _figures(agreement.by(between, lambda pair: " and ".join(pair.readers))),
        "by_class": _figures(agreement.by_class(between)),
        "by_source": _figures(agreement.by(between, lambda pair: pair.source)),
        "with_model": _figures(agreement.by(with_model, lambda pair: pair.readers[0])),
        "with_known": _figures(agreement.by(with_known, lambda pair: pair.readers[0])),
        "rows": [asdict(pair) for pair in rows[:_MOST_ROWS]],
        "hidden": len(between) - len(rows),
    }


def _figures(groups: Iterable[agreement.Group]) -> list[dict[str, Any]]:
    return [asdict(one) for one in groups]


def _worst(pair: Pair) -> tuple[bool, float]:
    """Differing labels first, then the masks that agree least."""
    return pair.labels[0] == pair.labels[1], 1.0 if pair.masks is None else pair.masks.dice


def _pairs(one: Looked, measured: Measured, both: Iterable[tuple[Reading, Reading]]) -> list[Pair]:
    return [
        Pair(
            one.case.batch,
            one.case.index,
            (first.reader, second.reader),
            (first.label, second.label),
            measured.overlap(first, second),
            one.label,
            one.source,
        )
        for first, second in both
    ]


def _looked(store: ObjectStore, case: Case) -> Looked:
    """An image's readings; without a reader's, masks are not read."""
    found = decisions(store, case.batch, case.index)
    # Only the first reading is certainly blind: having made it, a reader may see what others decided.
    first = {one.reader: one for one in sorted(found, key=lambda one: -one.version) if one.kind == "read"}
    judged = next((one for one in reversed(found) if one.kind == "adjudicate"), None)
    record = _record(store, case) if first else None
    model = None if record is None else _of_model(store, record)
    label = _label(judged) if judged is not None else None
    return Looked(
        case,
        label or (model.label if model is not None else None),
        case.batch if record is None else _source(record),
        [_of_decision(first[reader], reader) for reader in sorted(first)],
        model,
        _of_decision(judged, KNOWN) if judged is not None and first else None,
    )


def _record(store: ObjectStore, case: Case) -> ResultRecord | None:
    try:
        return read(store, layout.result(case.batch, case.index), ResultRecord)
    except ObjectNotFound:  # decisions outlive their batch
        return None


def _source(record: ResultRecord) -> str:
    folder, slash, _ = record.name.partition("/")
    return f"{record.batch}: {folder}" if slash else record.batch


def _of_model(store: ObjectStore, record: ResultRecord) -> Reading:
    segment, classify = record.stages.get(Stage.SEGMENT), record.stages.get(Stage.CLASSIFY)
    output = classify.output if classify is not None else None
    label = output.label if isinstance(output, ClassifyOutput) else None
    key = f"{record.source.sha256} {segment.key if segment is not None else ''}"
    try:
        mask = None if segment is None else png.decode(read_artifact(store, record, "mask.png"))
    except (ObjectNotFound, PermanentError):
        mask = None
    return Reading(MODEL, key, label, mask)


def _of_decision(one: Decision, reader: str) -> Reading:
    mask = None if one.mask is None else of_runs(one.mask.counts, one.mask.height, one.mask.width)
    return Reading(reader, f"{one.batch} {one.index} {one.reader} {one.version}", _label(one), mask)


def _label(one: Decision) -> str | None:
    return agreement.AND.join(sorted(one.diagnosis)) or None
