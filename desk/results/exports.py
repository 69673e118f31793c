"""What leaves the desk: tables, COCO, zips; written piece by piece, in memory that does not grow with them."""

from __future__ import annotations

import io
import json
import mimetypes
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dermbatch import __version__
from dermbatch.errors import ObjectNotFound, PermanentError
from dermbatch.records.outcome import ClassifyOutput, ResultRecord
from dermbatch.review.masks import runs
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore, split_uri
from orchestrator.batches.outcomes import in_order, read_artifact

_AT_A_TIME = 8
_LESION = "lesion"

Look = Callable[[str, int], ResultRecord | None]
"""Reads the record of an image; none if it no longer has a result."""


class _Forwarded(io.RawIOBase):
    """Takes what is written and passes it on."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._at += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._at

    def taken(self) -> bytes:
        """What was written since the last time."""
        body, self._parts = b"".join(self._parts), []
        return body


def csv(tables: Iterable[pa.Table], names: Sequence[str]) -> Iterator[bytes]:
    """Comma-separated values (RFC 4180), UTF-8, a line an image; lists with spaces between, no embeddings."""
    wanted = [name for name in dict.fromkeys(["batch", *names]) if name != "embedding"]
    yield (",".join(f'"{name}"' for name in wanted) + "\n").encode()
    options = pc_csv.WriteOptions(include_header=False)
    for table in tables:
        sink = io.BytesIO()
        pc_csv.write_csv(pa.table([_flat(_column(table, name)) for name in wanted], wanted), sink, options)
        yield sink.getvalue()


def parquet(tables: Iterable[pa.Table], schema: pa.Schema | None = None) -> Iterator[bytes]:
    """Parquet with the columns of a schema, else of the first table; null if a batch lacks a column."""
    sink = _Forwarded()
    writer: pq.ParquetWriter | None = None
    for table in tables:
        writer = writer or pq.ParquetWriter(sink, schema or table.schema, compression="zstd")
        columns = [_column(table, field.name, field.type) for field in writer.schema]
        writer.write_table(pa.table(columns, schema=writer.schema))
        yield sink.taken()
    if writer is not None:
        writer.close()
    yield sink.taken()


@dataclass(frozen=True)
class Marked:
    """An image with what COCO says of its lesion."""

    record: ResultRecord
    label: str
    score: float | None
    segmentation: dict[str, Any]
    area: int
    box: list[int]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.record.source.height, self.record.source.width


def marked(store: ObjectStore, look: Look, images: Iterable[tuple[str, int]]) -> Iterator[Marked]:
    """Images that have a mask, each with its runs; missing or damaged masks are skipped."""

    def one(image: tuple[str, int]) -> Marked | None:
        record = look(*image)
        try:
            body = b"" if record is None else read_artifact(store, record, "mask.png")
        except (ObjectNotFound, PermanentError):
            return None
        pixels = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_GRAYSCALE) if body else None
        return None if record is None or pixels is None else _marked(record, np.asarray(pixels > 0))

    return filter(None, in_order(one, images, _AT_A_TIME))


def coco(
    found: Iterable[Marked], labels: Sequence[str], file_of: Callable[[ResultRecord], str]
) -> Iterator[bytes]:
    """COCO's object detection format with run-length encoded masks; areas are pixels of the mask.

    Args:
        found: The images.
        labels: Classes; if empty, all lesions have one class.
        file_of: What an image's file is called.
    """
    categories = [{"id": n, "name": name} for n, name in enumerate(labels or [_LESION], 1)]
    numbers = {one["name"]: one["id"] for one in categories}
    head = {"info": {"description": "Dermbatch; no diagnosis", "version": __version__}, "categories": categories}
    yield json.dumps(head)[:-1].encode() + b', "annotations": ['
    between, images = b"", list[str]()
    for number, one in enumerate(found, 1):
        image = {"id": number, "file_name": file_of(one.record), "height": one.size[0], "width": one.size[1]}
        images.append(json.dumps(image | {"batch": one.record.batch, "index": one.record.index}))
        if one.area:
            about = {"id": number, "image_id": number, "category_id": numbers.get(one.label, 1), "iscrowd": 0}
            about |= {"area": one.area, "bbox": one.box, "score": one.score}
            yield between + json.dumps(about | {"segmentation": one.segmentation}).encode()
            between = b",\n"
    yield b'], "images": [' + ",\n".join(images).encode() + b"]}"


def zipped(files: Iterable[tuple[str, bytes | Iterable[bytes]]]) -> Iterator[bytes]:
    """A zip archive of already compressed files, file by file."""
    sink = _Forwarded()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, body in files:
            if isinstance(body, bytes):
                archive.writestr(name, body)
            else:
                with archive.open(name, "w", force_zip64=True) as member:
                    for piece in body:
                        member.write(piece)
            yield sink.taken()
    yield sink.taken()


def dicom_files(store: ObjectStore, look: Look, images: Iterable[tuple[str, int]]) -> Iterator[tuple[str, bytes]]:
    """DICOM objects of images, named by batch, index and kind, and a list of the missing ones."""
    gone = list[str]()
    for batch, index in images:
        record = look(batch, index)
        for kind, key in (record.dicom if record is not None else {}).items():
            try:
                yield f"{batch}/{index}-{kind}.dcm", store.get(store.bucket, key)
            except ObjectNotFound:
                gone.append(f"{batch}/{index}-{kind}.dcm")
    yield from _left_out(gone)


def source_files(store: ObjectStore, look: Look, images: Iterable[tuple[str, int]]) -> Iterator[tuple[str, bytes]]:
    """The images' own files under ``data/``, and a list of the missing ones."""
    gone = list[str]()
    for batch, index in images:
        record = look(batch, index)
        if record is None:
            continue
        try:
            yield f"data/{data_name(record)}", store.get(*split_uri(record.source.uri))
        except (ObjectNotFound, ValueError):  # or never in the store, being a file of `run`
            gone.append(f"data/{data_name(record)}")
    yield from _left_out(gone)


def _left_out(gone: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """A file that says which are missing, if any are."""
    if gone:
        lines = "\n".join(f"{name}: not in the object store any more" for name in gone)
        yield "left-out.txt", f"{lines}\n".encode()


def data_name(record: ResultRecord) -> str:
    """What an image's file is called in a zip: never its own name, which may be anything.

    It has the suffix of its type, so that programs recognise it.
    """
    end = mimetypes.guess_extension(record.source.media_type, strict=False) or ""
    return f"{record.batch}-{record.index:06d}{end}"


def _marked(record: ResultRecord, mask: NDArray[np.bool_]) -> Marked:
    stage = record.stages.get(Stage.CLASSIFY)
    output = stage.output if stage is not None else None
    label, score = _LESION, None
    if isinstance(output, ClassifyOutput) and output.label is not None:
        label, score = output.label, output.probabilities[output.label]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [0, 0, 0, 0]
    if len(rows):
        box = [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    return Marked(record, label, score, {"size": list(mask.shape), "counts": runs(mask)}, int(mask.sum()), box)


def _column(table: pa.Table, name: str, kind: pa.DataType | None = None) -> pa.ChunkedArray:
    if name in table.column_names:
        column = table.column(name)
        return column if kind is None else column.cast(kind)
    return pa.chunked_array([pa.nulls(table.num_rows, kind or pa.float64())])


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_list(column.type):
        return column
    texts = (None if values is None else " ".join(map(str, values)) for values in column.to_pylist())
    return pa.chunked_array([pa.array(texts, pa.string())])
