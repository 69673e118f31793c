"""The table of a batch: ``results.parquet``, one row an image; ``docs/table.md`` lists the columns.

Columns and their types are the same for every batch, but for one: each label of the classifier has its own
``probability_<label>``. Labels are known only when the last record was seen, so rows first go into a draft with
one map of probabilities, and from there, a row group at a time, into the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dermbatch.records.asked import ManifestEntry
from dermbatch.records.outcome import (
    ClassifyOutput,
    EnhanceOutput,
    FailureRecord,
    LesionGeometry,
    PurifyOutput,
    ResultRecord,
    SegmentOutput,
    StageRecord,
)
from dermbatch.stages import ORDER
from orchestrator.batches.outcomes import Outcome

ROWS_A_GROUP = 1000
_DRAFT = "probabilities"
_COMPRESSION = "zstd"

Row = dict[str, Any]

_TEXT, _WHOLE, _BIG = pa.string(), pa.int32(), pa.int64()
_REAL, _YES_NO, _TIME = pa.float64(), pa.bool_(), pa.timestamp("us", tz="UTC")

_IMAGE = {
    "index": _BIG,
    "name": _TEXT,
    "outcome": _TEXT,
    "reason": _TEXT,
    "message": _TEXT,
    "permanent": _YES_NO,
    "label": _TEXT,
    "probability": _REAL,
    "flags": pa.list_(_TEXT),
    "duplicate_of": _BIG,
    "frame": _WHOLE,
    "source": _TEXT,
    "sha256": _TEXT,
    "bytes": _BIG,
    "media_type": _TEXT,
    "height": _WHOLE,
    "width": _WHOLE,
    "pixel_spacing_row_mm": _REAL,
    "pixel_spacing_column_mm": _REAL,
    "notes": pa.list_(_TEXT),
}
_PURIFY = {"occluded_fraction": _REAL, "purified_png": _TEXT}
_GEOMETRY = {
    "area_px": _BIG,
    "area_fraction": _REAL,
    "perimeter_px": _REAL,
    "diameter_px": _REAL,
    "equivalent_diameter_px": _REAL,
    "asymmetry": _REAL,
    "border_irregularity": _REAL,
    "area_mm2": _REAL,
    "perimeter_mm": _REAL,
    "diameter_mm": _REAL,
    "components": _WHOLE,
}
_BOX = ("top", "left", "bottom", "right")
_CENTROID = ("centroid_row", "centroid_column")
_COLOURS = ("lesion_mean", "lesion_std", "skin_mean")
_SEGMENT = {
    "lesion": _YES_NO,
    "touches_frame": _YES_NO,
    "confidence": _REAL,
    **_GEOMETRY,
    **{f"box_{side}": _WHOLE for side in _BOX},
    **dict.fromkeys(_CENTROID, _REAL),
    **{f"{what}_{channel}": _REAL for what in _COLOURS for channel in "rgb"},
    "colours": _WHOLE,
    "mask_png": _TEXT,
}
_ENHANCE = {"enhance_method": _TEXT, "enhance_scale": _REAL, "enhanced_png": _TEXT}
_STAGES = {
    f"{stage}_{what}": kind
    for stage in ORDER
    for what, kind in (
        ("model", _TEXT),
        ("version", _TEXT),
        ("sha256", _TEXT),
        ("key", _TEXT),
        ("cached", _YES_NO),
        ("seconds", _REAL),
    )
}
_RUN = {
    "seconds_read": _REAL,
    "seconds_decode": _REAL,
    "seconds_write": _REAL,
    "attempt": _WHOLE,
    "worker": _TEXT,
    "started": _TIME,
    "finished": _TIME,
    "software": _TEXT,
}
_FIXED: dict[str, pa.DataType] = {
    **_IMAGE,
    **_PURIFY,
    **_SEGMENT,
    **_ENHANCE,
    **_STAGES,
    **_RUN,
    "embedding": pa.list_(pa.float32()),
}
_DRAFT_SCHEMA = pa.schema([*_FIXED.items(), (_DRAFT, pa.map_(_TEXT, _REAL))])


def schema(labels: list[str]) -> pa.Schema:
    """Columns and types of the table for a classifier with these labels; all may be null."""
    return pa.schema([*_FIXED.items(), *((f"probability_{label}", _REAL) for label in labels)])


class TableWriter:
    """Takes outcomes one by one and writes the table when it is left; holds one group of rows in memory.

    Args:
        path: The file to write.
        draft: A file beside it for the time of writing.
    """

    def __init__(self, path: Path, draft: Path) -> None:
        self._path, self._draft = path, draft
        self._rows: list[Row] = []
        self._labels: dict[str, None] = {}

    def __enter__(self) -> Self:
        self._writer = pq.ParquetWriter(self._draft, _DRAFT_SCHEMA, compression=_COMPRESSION)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._write_group()
        self._writer.close()
        if error is None:
            self._finish()

    def add(self, outcome: Outcome) -> None:
        """Add one row."""
        row = row_of(outcome)
        self._labels.update(dict.fromkeys(row[_DRAFT] or ()))
        self._rows.append(row)
        if len(self._rows) == ROWS_A_GROUP:
            self._write_group()

    def _write_group(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, _DRAFT_SCHEMA))
            self._rows.clear()

    def _finish(self) -> None:
        """The draft again, with a column for each label."""
        labels = sorted(self._labels)
        with (
            pq.ParquetFile(self._draft) as draft,
            pq.ParquetWriter(self._path, schema(labels), compression=_COMPRESSION) as writer,
        ):
            for number in range(draft.num_row_groups):
                group = draft.read_row_group(number)
                for label, column in _probability_columns(group.column(_DRAFT), labels):
                    group = group.append_column(f"probability_{label}", column)
                writer.write_table(group.drop_columns([_DRAFT]))


def _probability_columns(maps: pa.ChunkedArray, labels: list[str]) -> Iterator[tuple[str, pa.Array]]:
    rows = [dict(pairs) if pairs is not None else {} for pairs in maps.to_pylist()]
    for label in labels:
        yield label, pa.array([row.get(label) for row in rows], _REAL)


def row_of(outcome: Outcome) -> Row:
    """The row of one image, by column; what it has no value for is null."""
    row: Row = dict.fromkeys(_DRAFT_SCHEMA.names)
    row.update(_of_entry(outcome.entry))
    record = outcome.record
    if isinstance(record, FailureRecord):
        row.update(_of_failure(record))
        return row
    row.update(_of_result(record))
    for stage in record.stages.values():
        row.update(_of_stage(stage, record))
    return row


def _of_entry(entry: ManifestEntry) -> Row:
    return {
        "index": entry.index,
        "name": entry.name,
        "source": entry.source,
        "bytes": entry.size,
        "duplicate_of": entry.duplicate_of,
        "frame": entry.frame,
    }


def _of_failure(record: FailureRecord) -> Row:
    return {
        "outcome": "failed",
        "name": record.name,
        "source": record.source,
        "reason": record.reason,
        "message": record.message,
        "permanent": record.permanent,
        "attempt": record.attempts,
        "finished": record.failed,
        "software": record.software,
    }


def _of_result(record: ResultRecord) -> Row:
    source = record.source
    row, column = source.pixel_spacing_mm or (None, None)
    return {
        "outcome": "done",
        "flags": list(record.flags),
        "name": record.name,
        "source": source.uri,
        "sha256": source.sha256,
        "bytes": source.bytes,
        "media_type": source.media_type,
        "height": source.height,
        "width": source.width,
        "pixel_spacing_row_mm": row,
        "pixel_spacing_column_mm": column,
        "notes": list(source.notes),
        **{f"seconds_{step}": record.seconds.get(step) for step in ("read", "decode", "write")},
        "attempt": record.attempt,
        "worker": record.worker,
        "started": record.started,
        "finished": record.finished,
        "software": record.software,
    }


def _of_stage(stage: StageRecord, record: ResultRecord) -> Row:
    cached = stage.stage in record.cached
    row: Row = {
        f"{stage.stage}_model": stage.model.name,
        f"{stage.stage}_version": stage.model.version,
        f"{stage.stage}_sha256": stage.model.sha256,
        f"{stage.stage}_key": stage.key,
        f"{stage.stage}_cached": cached,
        f"{stage.stage}_seconds": None if cached else record.seconds.get(stage.stage),
    }
    match stage.output:
        case PurifyOutput(occluded_fraction=share):
            row |= {"occluded_fraction": share, "purified_png": stage.artifacts.get("purified.png")}
        case SegmentOutput() as output:
            row |= {
                "lesion": output.lesion is not None,
                "touches_frame": output.touches_frame,
                "confidence": output.confidence,
                "mask_png": stage.artifacts.get("mask.png"),
            }
            row |= _of_lesion(output.lesion) if output.lesion is not None else {}
        case EnhanceOutput() as output:
            row |= {
                "enhance_method": output.method,
                "enhance_scale": output.scale,
                "enhanced_png": stage.artifacts.get("enhanced.png"),
            }
        case ClassifyOutput() as output:
            row |= {
                "label": output.label,
                "probability": output.probabilities.get(output.label or ""),
                _DRAFT: output.probabilities,
                "embedding": embedding(stage),
            }
    return row


def _of_lesion(lesion: LesionGeometry) -> Row:
    row: Row = {name: getattr(lesion, name) for name in _GEOMETRY}
    row |= {f"box_{side}": getattr(lesion.bounding_box, side) for side in _BOX}
    row |= dict(zip(_CENTROID, lesion.centroid, strict=True))
    colour = lesion.colour
    for what, values in zip(_COLOURS, (colour.mean_rgb, colour.std_rgb, colour.skin_mean_rgb), strict=True):
        if values is not None:
            row |= {f"{what}_{channel}": value for channel, value in zip("rgb", values, strict=True)}
    return row | {"colours": colour.colours}


def embedding(stage: StageRecord) -> npt.NDArray[np.float32] | None:
    """The vector that a classify record keeps inline, float32 [D]; none where it keeps none, or a damaged one."""
    body = stage.inline.get("embedding.npy")
    if body is None:
        return None
    try:
        return np.asarray(np.load(BytesIO(body), allow_pickle=False), np.float32).reshape(-1)
    except (ValueError, EOFError, OSError):
        return None
