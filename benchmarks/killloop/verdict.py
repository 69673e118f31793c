"""The verdict: what the object store itself holds at the end, and what its server was seen to write."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from pydantic import ValidationError

from benchmarks.killloop import work
from benchmarks.killloop.proxy import written
from dermbatch import layout
from dermbatch.errors import DermbatchError, ObjectNotFound, PermanentError
from dermbatch.records.asked import Batch, BatchSummary, event_id
from dermbatch.records.outcome import FailureRecord, ResultRecord
from dermbatch.stages import ORDER
from dermbatch.store import ObjectStore
from dermbatch.stored import read, read_if_any
from orchestrator.batches.outcomes import read_artifact
from orchestrator.metering.reading import used_of
from orchestrator.metering.used import Used
from orchestrator.reporting.table.parts import ONE_FILE, TableManifest

_READERS = 8
_POISON = 3  # crashes


@dataclass(frozen=True)
class Verdict:
    """What became of the images of a batch.

    Attributes:
        lost: Images without an outcome, or with a failure that no kill explains.
        duplicated: Records written more than once, images counted or listed more than once.
        torn: Records that cannot be read, or whose artifacts are not what they say.
        billed_twice: Images with two events, or with one that says more than their record, has none, or bills
            another tenant.
        unbilled: Results without an event, or whose event says less than their record.
        poisoned: Images set apart after three real kills.
        failed: Failures by reason, the explained ones included.
        complaints: Sentences about what was found, for people.
    """

    lost: int
    duplicated: int
    torn: int
    poisoned: int
    failed: Counter[str]
    complaints: list[str]
    billed_twice: int = 0
    unbilled: int = 0

    @classmethod
    def of_all(cls, verdicts: Sequence[Verdict]) -> Verdict:
        """That of several batches as one."""
        return cls(
            lost=sum(one.lost for one in verdicts),
            duplicated=sum(one.duplicated for one in verdicts),
            torn=sum(one.torn for one in verdicts),
            poisoned=sum(one.poisoned for one in verdicts),
            failed=sum((one.failed for one in verdicts), Counter()),
            complaints=[sentence for one in verdicts for sentence in one.complaints],
            billed_twice=sum(one.billed_twice for one in verdicts),
            unbilled=sum(one.unbilled for one in verdicts),
        )


Check = Callable[[ObjectStore, ResultRecord], bool]
"""Whether the artifacts of a record are complete and undamaged."""


def no_op_artifacts_whole(store: ObjectStore, record: ResultRecord) -> bool:
    """Whether the artifact of the no-op work is the very one that its image has."""
    stage_key, key = work.artifact_key(record.index, layout.pool_of(_first_key(record)))
    stage = next(iter(record.stages.values()))
    if (stage.key, stage.artifacts) != (stage_key, {"purified.png": key}):
        return False
    found = hashlib.sha256(store.get(store.bucket, key)).hexdigest()
    return found == record.source.sha256 and found.startswith(stage.key)


def _first_key(record: ResultRecord) -> str:
    return next(iter(next(iter(record.stages.values())).artifacts.values()))


def pictures_whole(store: ObjectStore, record: ResultRecord) -> bool:
    """Whether all files of the real stages are there and can be decoded (PNG has a checksum in each chunk)."""
    for stage in record.stages.values():
        for name in stage.artifacts:
            try:
                data = read_artifact(store, record, name)
                if name.endswith(".npy"):
                    np.load(io.BytesIO(data), allow_pickle=False)
                else:
                    with Image.open(io.BytesIO(data)) as picture:
                        np.asarray(picture)
            except (OSError, PermanentError, SyntaxError, ValueError):
                return False
    return len(record.stages) == len(ORDER)


def judge(store: ObjectStore, log: Path, batch: Batch, check: Check, hit: Counter[int], *, ours: bool) -> Verdict:
    """Look at everything that a batch has left.

    Args:
        store: Leads straight to the server.
        log: The proxy's.
        batch: What was asked.
        check: Looks at the artifacts of a record.
        hit: SIGKILLs by the image that the process had.
        ours: Whether Dermbatch ran it: then records must be written once, and the batch must have its summary and
            table. Of stock Celery only records that differ count as written twice: the client's own repetition of
            one PUT is no second run.
    """
    complaints: list[str] = []
    there, torn = _results(store, batch, check)
    failures, torn_failures = _failures(store, batch)
    only_failed = {index: record for index, record in failures.items() if index not in there}
    explained = {
        index for index, record in only_failed.items() if record.reason == "poison" and hit[index] >= _POISON
    }
    missing = set(range(batch.images)) - there - set(only_failed)
    unexplained = set(only_failed) - explained
    for index in sorted(unexplained)[:5]:
        complaints.append(f"image {index} failed: {only_failed[index].reason}, kills of it: {hit[index]}")
    if missing:
        complaints.append(f"no outcome: {sorted(missing)[:10]}")
    if torn | torn_failures:
        complaints.append(f"torn: {sorted(torn | torn_failures)[:5]}")
    duplicated = _written_twice(log, batch.name, distinct=not ours)
    torn_count = len(torn | torn_failures)
    billed_twice = unbilled = 0
    if ours:
        billed_twice, unbilled = bills(store, batch, complaints)
        listed_twice, torn_tables = _closing(store, batch, complaints)
        duplicated, torn_count = duplicated + listed_twice, torn_count + torn_tables
    return Verdict(
        lost=len(missing) + len(unexplained),
        duplicated=duplicated,
        torn=torn_count,
        poisoned=len(explained),
        failed=Counter(record.reason for record in only_failed.values()),
        complaints=complaints,
        billed_twice=billed_twice,
        unbilled=unbilled,
    )


def bills(store: ObjectStore, batch: Batch, complaints: list[str]) -> tuple[int, int]:
    """How many images are billed twice or too high, and how many not or too low: all events against the records.

    What is due is worked out here from each record, independently of how closing works it out.
    """
    billed: defaultdict[int, Used] = defaultdict(Used)
    over, under = [], []
    for event in _events(store, batch):
        if event["subject"] == batch.order.tenant:
            billed[event["data"]["index"]].update(used_of(event))
        else:
            over.append(event["data"]["index"])
    for index in range(batch.images):
        due = _due(store, batch, index)
        if billed[index] - due:
            over.append(index)
        if due - billed[index]:
            under.append(index)
    if over or under:
        complaints.append(f"usage: billed twice or too high: {over[:5]}; not, or too low: {under[:5]}")
    return len(over), len(under)


def _events(store: ObjectStore, batch: Batch) -> Iterator[dict[str, Any]]:
    """Every line that is there, whatever a manifest says of it."""
    for info in store.list(store.bucket, layout.usage_of(batch.name, batch.created)):
        if info.key.endswith(".jsonl"):
            for line in store.get(store.bucket, info.key).splitlines():
                yield json.loads(line, parse_float=Decimal)


def _due(store: ObjectStore, batch: Batch, index: int) -> Used:
    """What the record of an image says of its own: an image, and the runs of stages that carry its event."""
    record = read_if_any(store, layout.result(batch.name, index), ResultRecord)
    if record is None or record.usage is None:
        return Used()
    due = Used(images=1, gigabytes_read=record.usage.bytes_read)
    for name, stage in record.stages.items():
        if stage.billed_by == event_id(batch.name, batch.created, index):
            due[f"{name}_seconds"] += round(stage.seconds * 1_000_000)
            due[f"{stage.device}_seconds"] += round(stage.model_seconds * 1_000_000)
            due["gigabytes_stored"] += sum(one.bytes for one in stage.written.values())
            due["gigabytes_stored"] += sum(one.written.bytes for one in stage.differences.values() if one.key)
    due["gigabytes_stored"] += sum(one.bytes for one in record.dicom_written.values())
    return +due


def _results(store: ObjectStore, batch: Batch, check: Check) -> tuple[set[int], set[str]]:
    """Indices that have a result record, whole or not, and keys of those that are not whole."""
    prefix = f"{layout.batch_prefix(batch.name)}results/"
    by_key = {layout.result(batch.name, index): index for index in range(batch.images)}
    keys = [info.key for info in store.list(store.bucket, prefix)]

    def is_whole(key: str) -> bool:
        try:
            record = ResultRecord.model_validate_json(store.get(store.bucket, key))
            is_it = (record.batch, record.index) == (batch.name, by_key.get(key))
            return is_it and _is_of(record, batch) and check(store, record)
        except (ValidationError, ObjectNotFound):
            return False

    with ThreadPoolExecutor(_READERS) as pool:
        whole = list(pool.map(is_whole, keys))
    torn = {key for key, good in zip(keys, whole, strict=True) if not good}
    return {by_key[key] for key in keys if key in by_key}, torn


def _is_of(record: ResultRecord, batch: Batch) -> bool:
    """Whether all that a record names is its tenant's: files among its own, and stages that it was billed for."""
    stages = record.stages.values()
    pools = {layout.pool_of(key) for stage in stages for key in stage.artifacts.values()}
    tenant = batch.order.tenant
    ours = tenant == "default" or all(layout.is_owned(stage.billed_by or "", tenant) for stage in stages)
    return pools <= {batch.order.pool} and ours


def _failures(store: ObjectStore, batch: Batch) -> tuple[dict[int, FailureRecord], set[str]]:
    found, torn = {}, set()
    for info in store.list(store.bucket, f"{layout.batch_prefix(batch.name)}failed/"):
        try:
            record = FailureRecord.model_validate_json(store.get(store.bucket, info.key))
            found[record.index] = record
        except ValidationError:
            torn.add(info.key)
    return found, torn


def _written_twice(log: Path, batch: str, *, distinct: bool) -> int:
    """Result records that the server has written more than once."""
    bodies: defaultdict[str, list[str]] = defaultdict(list)
    for line in written(log):
        if f"/{layout.batch_prefix(batch)}results/" in f"/{line.key}":
            bodies[line.key].append(line.sha256)
    return sum(len(set(digests) if distinct else digests) > 1 for digests in bodies.values())


def _closing(store: ObjectStore, batch: Batch, complaints: list[str]) -> tuple[int, int]:
    """Images that summary or table have more than once, and how many of the two cannot be read."""
    try:
        summary = BatchSummary.model_validate_json(store.get(store.bucket, layout.summary(batch.name)))
        indices = _listed(store, batch)
    except ObjectNotFound as error:
        complaints.append(f"the batch is not closed: {error}")
        return 0, 0  # what has no outcome is counted already
    except (ValidationError, DermbatchError, OSError, ValueError) as error:
        complaints.append(f"summary or table cannot be read: {type(error).__name__}")
        return 0, 1
    twice = len(indices) - len(set(indices))
    over = max(0, summary.done + summary.failed - batch.images)
    missing = set(range(batch.images)) - set(indices)
    if missing or twice or over:
        complaints.append(f"table: {len(missing)} rows missing, {twice} twice; summary: {over} too many")
    return twice + over, int(bool(missing))


def _listed(store: ObjectStore, batch: Batch) -> list[int]:
    """The images of a table, of one file or of all that its manifest names."""
    keys = [layout.table(batch.name)]
    if batch.images > ONE_FILE:
        manifest = read(store, layout.table_manifest(batch.name), TableManifest)
        keys = [f"{layout.table_parts(batch.name)}{part.name}" for part in manifest.parts]
    tables = (pq.read_table(io.BytesIO(store.get(store.bucket, key)), columns=["index"]) for key in keys)
    return [index for table in tables for index in table.column("index").to_pylist()]
