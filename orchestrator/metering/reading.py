"""Usage events read back: each is counted once, and anything cut off, changed or missing is reported."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from dermbatch import layout
from dermbatch.errors import NewerFormat, ObjectBrokeOff, ObjectNotFound, RecordDamaged
from dermbatch.records.asked import event_id
from dermbatch.store import ObjectStore
from dermbatch.stored import read
from orchestrator.batches.outcomes import in_order
from orchestrator.metering.events import UsageFile, UsageManifest, source
from orchestrator.metering.used import UNITS, Used

_READERS = 8

Tell = Callable[[str], None]


@dataclass
class Counted:
    """The sum of events.

    Attributes:
        days: What was used, by tenant and day.
        events: How many were counted.
        repeated: How many were duplicates, and were skipped.
        wrong: How many things were wrong; each was reported.
    """

    days: defaultdict[tuple[str, str], Used] = field(default_factory=lambda: defaultdict(Used))
    events: int = 0
    repeated: int = 0
    wrong: int = 0


@dataclass(frozen=True)
class Metered:
    """Which batches have events.

    Attributes:
        manifests: The manifests of those that do.
        open: Number of batches that are not closed: their usage is counted once they are.
        uncounted: Batches that closed without events, because the version that closed them did not meter
            usage, or whose events were deleted.
        damaged: Keys of manifests that cannot be read.
    """

    manifests: tuple[UsageManifest, ...]
    open: int
    uncounted: tuple[str, ...]
    damaged: tuple[str, ...]


def standing(store: ObjectStore, tenant: str | None = None) -> Metered:
    """Look at all batches, or at those whose names mark them as one tenant's.

    Raises:
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    begins = ("",) if tenant is None else layout.owned_batches(tenant)
    opened = {key.removeprefix(layout.OPEN) for key in _keys(store, layout.OPEN, begins)}
    keys = [key for key in _keys(store, layout.USAGE, begins) if key.endswith(f"/{layout.USAGE_MANIFEST}")]
    manifests, damaged = [], []
    for key, found in in_order(lambda key: (key, _manifest(store, key)), keys, _READERS):
        if found is None:
            damaged.append(key)
        else:
            manifests.append(found)
    known = {name.removesuffix(".json") for name in opened}
    known |= {key.removeprefix(layout.USAGE).partition("/")[0] for key in keys}
    batches = (f"{one}{rest}" for one in begins for rest in store.folders(store.bucket, layout.BATCHES + one))
    others = [name for name in batches if name not in known]
    closed = tuple(name for name in others if any(store.list(store.bucket, layout.summary(name))))
    return Metered(tuple(manifests), len(opened), closed, tuple(damaged))


def _keys(store: ObjectStore, prefix: str, begins: Iterable[str]) -> list[str]:
    return [info.key for one in begins for info in store.list(store.bucket, prefix + one)]


def _manifest(store: ObjectStore, key: str) -> UsageManifest | None:
    with suppress(RecordDamaged, NewerFormat, ObjectNotFound, ObjectBrokeOff):
        return read(store, key, UsageManifest)
    return None


def noted_at_closing(manifests: Iterable[UsageManifest]) -> dict[tuple[str, str], Used]:
    """Usage by tenant and day according to the manifests: the sum of all their events, if nothing is wrong."""
    days: defaultdict[tuple[str, str], Used] = defaultdict(Used)
    for manifest in manifests:
        for day, used in manifest.days.items():
            days[manifest.tenant, day].update(used)
    return dict(days)


def count(store: ObjectStore, manifest: UsageManifest, counted: Counted, tell: Tell, month: str = "") -> None:
    """Count the events of a batch from its files.

    Args:
        store: Where they are.
        manifest: What they should be.
        counted: What they are added to.
        tell: Called with a sentence for each thing that is wrong.
        month: Only days that begin like this, as 2026-03.

    Raises:
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    wanted = [file for file in manifest.files if any(day.startswith(month) for day in file.days)]
    found: defaultdict[str, Used] = defaultdict(Used)
    seen: set[int] = set()

    def report(sentence: str) -> None:
        counted.wrong += 1
        tell(f"usage of batch {manifest.batch}: {sentence}")

    for file, body in in_order(lambda file: (file, _body(store, manifest, file)), wanted, _READERS):
        lines = _whole_lines(file, body, report)
        for line in lines:
            _add(line, manifest, seen, found, counted, report)
    days = {day: found[day] for day in sorted(found) if day.startswith(month)}
    expected = {day: Used(used) for day, used in manifest.days.items() if day.startswith(month)}
    if days != expected:
        report("its events do not add up to what was noted when it closed")
    for day, used in days.items():
        counted.days[manifest.tenant, day].update(used)
        counted.events += used["images"]


def _body(store: ObjectStore, manifest: UsageManifest, file: UsageFile) -> bytes | None:
    with suppress(ObjectNotFound):
        return store.get(store.bucket, f"{layout.usage_of(manifest.batch, manifest.created)}{file.name}")
    return None


def _whole_lines(file: UsageFile, body: bytes | None, report: Tell) -> list[bytes]:
    if body is None:
        report(f"{file.name} with {file.events:,} events is gone")
        return []
    lines = body.splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    if hashlib.sha256(body).hexdigest() != file.sha256:
        how = "is cut off" if len(body) < file.bytes else "was changed"
        report(f"{file.name} {how}: {len(whole):,} lines are there, and {file.events:,} were written")
    return whole


def _add(
    line: bytes,
    manifest: UsageManifest,
    seen: set[int],
    found: defaultdict[str, Used],
    counted: Counted,
    report: Tell,
) -> None:
    """Count one event, if it belongs to this batch and was not counted yet."""
    try:
        event = json.loads(line, parse_float=Decimal)
        index = int(event["data"]["index"])
        day, used = str(event["time"])[:10], used_of(event)
        ours = event["id"] == event_id(manifest.batch, manifest.created, index)
        ours &= event["source"] == source(manifest.batch) and event["subject"] == manifest.tenant
        datetime.fromisoformat(day)
    except (ValueError, TypeError, KeyError, ArithmeticError):
        report("a line is not an event")
        return
    if not ours:
        report("an event belongs to another batch or tenant, and is not counted")
    elif index in seen:
        counted.repeated += 1
    else:
        seen.add(index)
        found[day].update(used)


def used_of(event: dict[str, Any]) -> Used:
    """What an event bills, without items that are zero.

    Raises:
        KeyError, TypeError, ValueError, ArithmeticError: If it does not say so.
    """
    data = event["data"]
    used = Used(images=int(data["images"]))
    for stage, seconds in data["stage_seconds"].items():
        used[f"{stage}_seconds"] += _parts(seconds, f"{stage}_seconds")
    for stage, seconds in data["model_seconds"].items():
        device = f"{data['device'][stage]}_seconds"
        used[device] += _parts(seconds, device)
    used["gigabytes_read"] += int(data["bytes_read"])
    used["gigabytes_stored"] += int(data["bytes_stored"])
    return +used


def _parts(quantity: Decimal, item: str) -> int:
    return int(Decimal(quantity) * UNITS[item])
