"""Usage events of a batch: made from the rows of its results when it closes, and written below ``usage/``.

CloudEvents 1.0 in the JSON event format, one a line (https://cloudevents.io): ``source`` and ``id`` together are
unique, and the same for the same record whenever and however often they are written. Files are of
:data:`EVENTS_A_FILE` images each, in order, and named by their digests; a manifest is written last.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from dermbatch import layout
from dermbatch.records.asked import Batch, Record, Stored, event_id
from dermbatch.stages import ORDER
from dermbatch.store import ObjectStore
from dermbatch.stored import write
from orchestrator.metering.used import DEVICES, Used

EVENTS_A_FILE = 10_000
"""Images in one file, which then has at most 5 MB."""

TYPE = "org.dermbatch.image.done"

_LINES = "application/x-ndjson"
_MICROSECONDS = 1_000_000
_NONE = len(DEVICES)
_KEPT = np.dtype(
    [
        ("done", "?"),
        ("index", "i8"),
        ("finished", "i8"),
        *((f"{stage}_{what}", "i8") for stage in ORDER for what in ("billed", "model")),
        *((f"{stage}_device", "u1") for stage in ORDER),
        ("bytes_read", "i8"),
        ("bytes_stored", "i8"),
    ]
)

Kept = npt.NDArray[np.void]


class UsageFile(Record):
    """A file of events."""

    name: str
    events: int
    bytes: int
    sha256: str
    days: tuple[str, ...] = Field(description="days of its events, UTC")


class UsageManifest(Stored):
    """The events of a batch; ``usage/<batch>/<moment>/_manifest.json``. Once it exists, they are complete."""

    batch: str
    created: datetime
    tenant: str
    events: int
    files: tuple[UsageFile, ...]
    days: dict[str, dict[str, int]] = Field(description="what was used by day, UTC, in whole parts")


class Events:
    """Gathers the results of a batch, and writes their events. Memory does not grow with the batch.

    Args:
        batch: What was asked.
        folder: Folder for temporary data, 100 bytes an image.
    """

    def __init__(self, batch: Batch, folder: Path) -> None:
        self._batch = batch
        self._kept: Kept = np.memmap(folder / "usage", _KEPT, "w+", shape=max(1, batch.images))

    def add(self, rows: pa.Table) -> None:
        """Take in the results among these rows; if an image comes again, its later row counts."""
        rows = rows.filter(pc.equal(rows["outcome"], "done"))
        at = np.asarray(rows["index"], np.int64)
        self._kept["done"][at], self._kept["index"][at] = True, at
        self._kept["finished"][at] = np.asarray(rows["finished"].cast(pa.int64()))
        for stage in ORDER:
            for what in ("billed", "model"):
                self._kept[f"{stage}_{what}"][at] = _microseconds(rows[f"{stage}_{what}_seconds"])
            self._kept[f"{stage}_device"][at] = _devices(rows[f"{stage}_device"])
        for what in ("bytes_read", "bytes_stored"):
            self._kept[what][at] = np.asarray(rows[what].fill_null(0))

    def days(self) -> dict[str, Used]:
        """What was used, by day."""
        found: defaultdict[str, Used] = defaultdict(Used)
        for _, kept in self._pieces():
            for day in np.unique(_days(kept)):
                found[str(day)].update(_used(kept[_days(kept) == day]))
        return dict(sorted(found.items()))

    def write(self, store: ObjectStore) -> UsageManifest:
        """Write the files, then the manifest, then delete what an earlier closing left behind.

        Raises:
            StoreUnavailable, StoreRefused: Where the store fails.
        """
        batch, prefix = self._batch, layout.usage_of(self._batch.name, self._batch.created)
        files = []
        for first, kept in self._pieces():
            body = "".join(_lines(batch, kept)).encode()
            digest = hashlib.sha256(body).hexdigest()
            days = tuple(map(str, np.unique(_days(kept))))
            name = f"{first:09d}-{digest[:12]}.jsonl"
            files.append(UsageFile(name=name, events=len(kept), bytes=len(body), sha256=digest, days=days))
            store.put(f"{prefix}{name}", body, _LINES)
        manifest = UsageManifest(
            batch=batch.name,
            created=batch.created,
            tenant=batch.order.tenant,
            events=sum(file.events for file in files),
            files=tuple(files),
            days={day: dict(sorted(used.items())) for day, used in self.days().items()},
        )
        write(store, layout.usage_manifest(batch.name, batch.created), manifest)
        _tidy(store, prefix, {file.name for file in files})
        return manifest

    def _pieces(self) -> Iterator[tuple[int, Kept]]:
        """The results of each file: the first image that it may have, and what is kept of its images."""
        for first in range(0, self._batch.images, EVENTS_A_FILE):
            piece = self._kept[first : first + EVENTS_A_FILE]
            at = np.flatnonzero(piece["done"])
            if len(at):
                yield first, piece[at].copy()


def _microseconds(seconds: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    given = np.asarray(seconds.fill_null(0.0), np.float64)
    return np.asarray(np.rint(given * _MICROSECONDS), np.int64)


def _devices(devices: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Their numbers in :data:`DEVICES`, or the number after the last if the run of the stage is not billed."""
    found = pc.index_in(devices, pa.array(DEVICES)).fill_null(_NONE)
    return np.asarray(found).astype(np.uint8)


def _days(kept: Kept) -> npt.NDArray[np.datetime64]:
    return kept["finished"].astype("M8[us]").astype("M8[D]")


def _used(kept: Kept) -> Used:
    """The sum over some results, without items that are zero."""
    used = Used(images=len(kept))
    for stage in ORDER:
        used[f"{stage}_seconds"] += int(kept[f"{stage}_billed"].sum())
        for number, device in enumerate(DEVICES):
            used[f"{device}_seconds"] += int(kept[f"{stage}_model"][kept[f"{stage}_device"] == number].sum())
    used["gigabytes_read"] += int(kept["bytes_read"].sum())
    used["gigabytes_stored"] += int(kept["bytes_stored"].sum())
    return +used


def _lines(batch: Batch, kept: Kept) -> Iterator[str]:
    """The events of some results."""
    context = {"source": source(batch.name), "type": TYPE, "subject": batch.order.tenant}
    same = json.dumps({**context, "datacontenttype": "application/json"}, separators=(",", ":"))[1:-1]
    times = np.datetime_as_string(kept["finished"].astype("M8[us]"), timezone="UTC")
    columns = {name: kept[name].tolist() for name in kept.dtype.names or ()}
    for at, (index, time) in enumerate(zip(columns["index"], times, strict=True)):
        event = event_id(batch.name, batch.created, index)
        yield (
            f'{{"specversion":"1.0","id":"{event}","time":"{time}",{same},"data":{{"batch":"{batch.name}",'
            f'"index":{index},"images":1,{_of_stages(columns, at)},'
            f'"bytes_read":{columns["bytes_read"][at]},"bytes_stored":{columns["bytes_stored"][at]}}}}}\n'
        )


def _of_stages(columns: Mapping[str, Sequence[int]], at: int) -> str:
    stages = [stage.value for stage in ORDER if columns[f"{stage}_device"][at] != _NONE]
    seconds = ",".join(f'"{stage}":{_seconds(columns[f"{stage}_billed"][at])}' for stage in stages)
    models = ",".join(f'"{stage}":{_seconds(columns[f"{stage}_model"][at])}' for stage in stages)
    devices = ",".join(f'"{stage}":"{DEVICES[columns[f"{stage}_device"][at]]}"' for stage in stages)
    return f'"stage_seconds":{{{seconds}}},"model_seconds":{{{models}}},"device":{{{devices}}}'


def _seconds(microseconds: int) -> str:
    return f"{microseconds // _MICROSECONDS}.{microseconds % _MICROSECONDS:06d}"


def source(batch: str) -> str:
    """The ``source`` of a batch's events: a relative URI."""
    return f"/dermbatch/batches/{batch}"


def _tidy(store: ObjectStore, prefix: str, named: set[str]) -> None:
    for info in list(store.list(store.bucket, prefix)):
        if info.key.removeprefix(prefix) not in named | {layout.USAGE_MANIFEST}:
            store.delete(info.key)
