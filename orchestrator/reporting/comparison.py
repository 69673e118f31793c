"""How the result of an image differs from that of an earlier batch: a row of ``comparison.parquet``.

Lesion masks are compared by Dice's coefficient, 2 |A and B| / (|A| + |B|) (Dice 1945), 1 where both are empty.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dermbatch import layout
from dermbatch.errors import PermanentError
from dermbatch.images.lesion import Mask, dice
from dermbatch.records.asked import Earlier
from dermbatch.records.measures import classification, probability_change
from dermbatch.records.outcome import ModelUsed, ResultRecord, SegmentOutput, StageRecord
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import read_if_any
from orchestrator.batches.outcomes import Outcome, read_artifact
from orchestrator.reporting.report import probabilities

_ROWS_A_GROUP = 1000

How = Literal["identical", "compared", "new_failed", "old_missing"]
"""``identical``: by stage keys, so nothing was read; ``old_missing``: the earlier batch has no result for it."""

_decoding = threading.Semaphore(2)  # masks of many megapixels in memory at a time, however many readers there are


@dataclass(frozen=True)
class Compared:
    """An image's two results; what cannot be compared is ``None``."""

    index: int
    name: str
    earlier: Earlier
    how: How
    old: ResultRecord | None = None
    new: ResultRecord | None = None
    dice: float | None = None

    @property
    def areas(self) -> tuple[int | None, int | None]:
        """Pixels of the old and the new lesion; 0 if there is none."""
        return _area(self.old), _area(self.new)

    @property
    def area_change(self) -> float | None:
        """New area over old, less 1."""
        old, new = self.areas
        if old is None or new is None or (old == 0 and new > 0):
            return None
        return new / old - 1 if old else 0.0

    @property
    def labels(self) -> tuple[str | None, str | None]:
        """The most probable class, old and new."""
        return _label(self.old), _label(self.new)

    @property
    def label_changed(self) -> bool | None:
        """Whether the most probable class has changed."""
        old, new = self.labels
        return None if old is None or new is None else old != new

    @property
    def probability_change(self) -> float | None:
        """The largest change of a class's probability, 0 to 1; none where one of the two gives no diagnosis."""
        old, new = (classification(one) if one else None for one in (self.old, self.new))
        if not old or not new or not old.probabilities or not new.probabilities:
            return None
        return probability_change(old, new)

    def models(self, stage: Stage) -> tuple[ModelUsed | None, ModelUsed | None]:
        """The models that ran this stage, then and now."""
        old, new = _stage(self.old, stage), _stage(self.new, stage)
        return old.model if old else None, new.model if new else None


def compare(store: ObjectStore, outcome: Outcome) -> Compared | None:
    """Compare an outcome with the earlier result that the manifest names; none if it names none.

    Reads the earlier record, and both masks if the stage key of segmentation has changed.

    Raises:
        StoreUnavailable, StoreRefused: If the store fails.
    """
    entry, new = outcome.entry, outcome.record
    if entry.earlier is None:
        return None
    if not isinstance(new, ResultRecord):
        return Compared(entry.index, entry.name, entry.earlier, "new_failed")
    old = read_if_any(store, layout.result(entry.earlier.batch, entry.earlier.index), ResultRecord)
    if old is None:
        return Compared(entry.index, entry.name, entry.earlier, "old_missing", new=new)
    same_keys = {s: one.key for s, one in old.stages.items()} == {s: one.key for s, one in new.stages.items()}
    identical = same_keys and old.source.sha256 == new.source.sha256
    return Compared(
        index=entry.index,
        name=entry.name,
        earlier=entry.earlier,
        how="identical" if identical else "compared",
        old=old,
        new=new,
        dice=_dice_of(store, old, new),
    )


def read_mask(store: ObjectStore, record: ResultRecord) -> Mask | None:
    """The lesion mask, uint8 [H, W]; none if it is missing or no picture.

    Raises:
        StoreUnavailable, StoreRefused: If the store fails.
    """
    try:
        body = read_artifact(store, record, "mask.png")
    except PermanentError:
        return None
    mask = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_GRAYSCALE) if body else None
    return None if mask is None else np.asarray(mask, np.uint8)


class ComparisonTable:
    """Writes ``comparison.parquet``, a group of rows in memory at a time.

    Args:
        path: The file to write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._writer = pq.ParquetWriter(self._path, SCHEMA, compression="zstd")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write()
        self._writer.close()

    def add(self, compared: Compared) -> None:
        """Add one row."""
        self._rows.append(_row(compared))
        if len(self._rows) == _ROWS_A_GROUP:
            self._write()

    def _write(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
            self._rows.clear()


SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("name", pa.string()),
        ("earlier_batch", pa.string()),
        ("earlier_index", pa.int64()),
        ("how", pa.string()),
        ("dice", pa.float64()),
        ("old_area_px", pa.int64()),
        ("new_area_px", pa.int64()),
        ("area_change", pa.float64()),
        ("old_label", pa.string()),
        ("new_label", pa.string()),
        ("label_changed", pa.bool_()),
        ("probability_change", pa.float64()),
        *((f"{age}_{stage}_model", pa.string()) for stage in Stage for age in ("old", "new")),
    ]
)
"""Columns of ``comparison.parquet``; all may be null."""


def _row(compared: Compared) -> dict[str, Any]:
    ages = "old", "new"
    return {
        "index": compared.index,
        "name": compared.name,
        "earlier_batch": compared.earlier.batch,
        "earlier_index": compared.earlier.index,
        "how": compared.how,
        "dice": compared.dice,
        **{f"{age}_area_px": area for age, area in zip(ages, compared.areas, strict=True)},
        "area_change": compared.area_change,
        **{f"{age}_label": label for age, label in zip(ages, compared.labels, strict=True)},
        "label_changed": compared.label_changed,
        "probability_change": compared.probability_change,
        **{
            f"{age}_{stage}_model": model_name(model)
            for stage in Stage
            for age, model in zip(ages, compared.models(stage), strict=True)
        },
    }


def model_name(model: ModelUsed | None) -> str | None:
    """``name@version``, as options are written."""
    return None if model is None else f"{model.name}@{model.version}"


def _dice_of(store: ObjectStore, old: ResultRecord, new: ResultRecord) -> float | None:
    before, now = _stage(old, Stage.SEGMENT), _stage(new, Stage.SEGMENT)
    if before is None or now is None:
        return None
    if before.key == now.key and old.source.sha256 == new.source.sha256:
        return 1.0
    areas = _area(old), _area(new)
    if 0 in areas:
        return float(areas == (0, 0))
    with _decoding:
        one, other = read_mask(store, old), read_mask(store, new)
        if one is None or other is None or one.shape != other.shape:
            return None
        return dice(one, other)


def _stage(record: ResultRecord | None, stage: Stage) -> StageRecord | None:
    return record.stages.get(stage) if record is not None else None


def _area(record: ResultRecord | None) -> int | None:
    stage = _stage(record, Stage.SEGMENT)
    if stage is None or not isinstance(stage.output, SegmentOutput):
        return None
    return stage.output.lesion.area_px if stage.output.lesion is not None else 0


def _label(record: ResultRecord | None) -> str | None:
    return next((label for label, _ in probabilities(record)), None) if record is not None else None
