"""The columns of a batch's table, and how sent rows become a table; ``docs/table.md`` lists all columns.

Columns and their types are the same for every batch, with one exception: each label of the classifier has its own
``probability_<label>``.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

from dermbatch.records.row import BOX, CENTROID, COLOURS, GEOMETRY, NO_DICOM, PROBABILITIES
from dermbatch.stages import ORDER

_PREFIX = "probability_"
_COMPRESSION = "zstd"
_BLOCK = 16 * 1024 * 1024  # bytes of rows that are read at a time: every row has to fit

ROWS_A_GROUP = 1000

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
    "risk": _TEXT,
    "possible": pa.list_(_TEXT),
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
_GEOMETRY = {"area_px": _BIG, "components": _WHOLE}
_SEGMENT = {
    "lesion": _YES_NO,
    "touches_frame": _YES_NO,
    "confidence": _REAL,
    **{name: _GEOMETRY.get(name, _REAL) for name in GEOMETRY},
    **{f"box_{side}": _WHOLE for side in BOX},
    **dict.fromkeys(CENTROID, _REAL),
    **{f"{what}_{channel}": _REAL for what in COLOURS for channel in "rgb"},
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
        ("billed_seconds", _REAL),
        ("model_seconds", _REAL),
        ("device", _TEXT),
    )
}
_RUN = {
    "seconds_read": _REAL,
    "seconds_decode": _REAL,
    "seconds_write": _REAL,
    "bytes_read": _BIG,
    "bytes_stored": _BIG,
    "attempt": _WHOLE,
    "seconds_waited": _REAL,
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
_LABELLED = pa.list_(pa.struct([("label", _TEXT), ("p", _REAL)]))
_AS_SENT = {
    **{name: _BIG if kind == _TIME else kind for name, kind in _FIXED.items()},
    "embedding": _TEXT,
    PROBABILITIES: _LABELLED,
    NO_DICOM: _YES_NO,
}
_READING = pj.ReadOptions(use_threads=False, block_size=_BLOCK)
_PARSING = pj.ParseOptions(explicit_schema=pa.schema(list(_AS_SENT.items())), unexpected_field_behavior="error")


def schema(labels: Iterable[str]) -> pa.Schema:
    """Columns and types of the table for a classifier with these labels; all may be null."""
    return pa.schema([*_FIXED.items(), *((_PREFIX + label, _REAL) for label in sorted(labels))])


def labels_of(table: pa.Table) -> list[str]:
    """The labels that a table has columns for."""
    return [name.removeprefix(_PREFIX) for name in table.column_names if name.startswith(_PREFIX)]


def rows_of(lines: Sequence[str]) -> pa.Table:
    """Rows as they were sent (:func:`dermbatch.records.row.sent`) as a table, with the columns of their labels.

    There is one more column, :data:`~dermbatch.records.row.NO_DICOM`, which :func:`written` leaves out.

    Raises:
        ValueError: If they are not such rows, or of another version.
    """
    if not lines:
        return with_labels(pa.table({NO_DICOM: pa.array([], _YES_NO)}), ())
    try:
        sent = pj.read_json(BytesIO("\n".join(lines).encode()), read_options=_READING, parse_options=_PARSING)
        sent = sent.combine_chunks()
        columns = {name: _column(name, kind, sent[name]) for name, kind in _FIXED.items()}
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"these are not rows of a known version: {error}") from error
    for label, values in _by_label(sent[PROBABILITIES].combine_chunks(), len(lines)):
        columns[_PREFIX + label] = values
    return pa.table({**columns, NO_DICOM: sent[NO_DICOM]})


def with_labels(table: pa.Table, labels: Iterable[str]) -> pa.Table:
    """A table with the columns for these labels and its own, in order; what is new in it is null."""
    wanted = schema({*labels, *labels_of(table)}).append(pa.field(NO_DICOM, _YES_NO))
    there = set(table.column_names)
    columns = [table[field.name] if field.name in there else pa.nulls(len(table), field.type) for field in wanted]
    return pa.table(columns, schema=wanted)


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows of these, in the order of the images."""
    labels = {label for table in tables for label in labels_of(table)}
    return pa.concat_tables([with_labels(table, labels) for table in tables]).sort_by("index")


def written(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
    return as_parquet(table.drop_columns([NO_DICOM]) if NO_DICOM in table.column_names else table)


def as_parquet(table: pa.Table) -> bytes:
    """Any table as a Parquet file."""
    file = BytesIO()
    # No two numbers of embeddings are alike: dictionaries of them would cost time and gain nothing.
    texts = [field.name for field in table.schema if field.type == _TEXT]
    pq.write_table(table, file, row_group_size=ROWS_A_GROUP, compression=_COMPRESSION, use_dictionary=texts)
    return file.getvalue()


def read(body: bytes) -> pa.Table:
    """The table of a Parquet file that :func:`written` made."""
    return pq.read_table(BytesIO(body))


def _column(name: str, kind: pa.DataType, sent: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if kind == _TIME:
        return sent.cast(kind)
    return _embeddings(sent) if name == "embedding" else sent


def _embeddings(sent: pa.ChunkedArray) -> pa.Array:
    vectors = [None if text is None else base64.b64decode(text) for text in sent.to_pylist()]
    item = np.dtype("<f4").itemsize
    ends = np.cumsum([0, *(len(vector or b"") // item for vector in vectors)], dtype=np.int32)
    values = pa.array(np.frombuffer(b"".join(filter(None, vectors)), "<f4"))
    missing = pa.array([vector is None for vector in vectors])
    return pa.ListArray.from_arrays(pa.array(ends), values, mask=missing)


def _by_label(probabilities: pa.Array, rows: int) -> Iterable[tuple[str, pa.Array]]:
    parents = np.asarray(pc.list_parent_indices(probabilities))
    pairs = pc.list_flatten(probabilities)
    label, p = pairs.field("label"), np.asarray(pairs.field("p").fill_null(np.nan), float)
    for name in sorted(label.unique().to_pylist()):
        mine = np.asarray(pc.equal(label, name))
        values: npt.NDArray[np.float64] = np.zeros(rows)
        missing: npt.NDArray[np.bool_] = np.ones(rows, bool)
        values[parents[mine]], missing[parents[mine]] = p[mine], False
        yield name, pa.array(values, mask=missing)


def truths(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """A column of truth values; a missing one counts as false."""
    return np.asarray(column.fill_null(False), np.bool_)
