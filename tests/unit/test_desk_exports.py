"""Exports: tables, COCO's run lengths, zips, structured reports as text."""

import csv as plain_csv
import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dermbatch.errors import RecordDamaged
from dermbatch.review.masks import runs
from desk.pages.structured import content
from desk.results.exports import Marked, coco, csv, data_name, parquet, zipped
from tests.outcome_samples import result_of


def tables():
    first = pa.table(
        {"batch": ["a", "a"], "name": ['x,"y"\n', "皮膚"], "flags": [["p", "q"], []], "score": [0.5, None]}
    )
    return [first, pa.table({"batch": ["b"], "name": ["z"], "other": [1]})]


def test_csv_has_every_image_and_names_of_every_kind():
    body = b"".join(csv(tables(), ["name", "flags", "score", "other", "embedding"])).decode()
    rows = list(plain_csv.DictReader(io.StringIO(body, newline="")))
    assert [row["name"] for row in rows] == ['x,"y"\n', "皮膚", "z"]
    assert [row["flags"] for row in rows] == ["p q", "", ""]
    assert [row["score"] for row in rows] == ["0.5", "", ""]
    assert "embedding" not in rows[0]


def test_parquet_of_several_groups_is_one_file():
    found = pq.read_table(io.BytesIO(b"".join(parquet(tables()))))
    assert found.column("name").to_pylist() == ['x,"y"\n', "皮膚", "z"]
    assert found.column("flags").to_pylist() == [["p", "q"], [], None]


def test_parquet_has_the_columns_of_all_batches():
    schema = pa.unify_schemas([table.schema for table in tables()])
    found = pq.read_table(io.BytesIO(b"".join(parquet(tables(), schema))))
    assert found.column("other").to_pylist() == [None, None, 1]


@pytest.mark.parametrize(
    ("media_type", "end"), [("image/jpeg", ".jpg"), ("image/webp", ".webp"), ("application/dicom", ".dcm")]
)
def test_files_of_a_zip_end_as_their_type_does_wherever_they_lay(media_type, end):
    record = result_of("b", 3)
    source = record.source.model_copy(update={"media_type": media_type, "uri": "s3://incoming/b/3"})
    assert data_name(record.model_copy(update={"source": source})) == f"b-000003{end}"


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        ([[0, 0], [0, 0]], [4]),
        ([[1, 1], [1, 1]], [0, 4]),
        ([[0, 1], [1, 1]], [1, 3]),
        ([[1, 0], [0, 1]], [0, 1, 2, 1]),
    ],
)
def test_run_lengths_go_down_the_columns_background_first(mask, counts):
    assert runs(np.array(mask, bool)) == counts


def decoded(counts, size):
    flat = np.concatenate([np.full(count, at % 2) for at, count in enumerate(counts)])
    return flat.reshape(size, order="F")


def test_coco_gives_back_the_masks_and_their_areas():
    mask = np.zeros((64, 64), bool)
    mask[5:9, 20:40] = True
    record = result_of("b", 3)
    empty = Marked(record, "nevus", 0.7, {"size": [64, 64], "counts": [4096]}, 0, [0, 0, 0, 0])
    found = Marked(record, "nevus", 0.7, {"size": [64, 64], "counts": runs(mask)}, 80, [20, 5, 20, 4])
    for images in ([empty, found, found], [found, empty], [empty], []):
        exported = json.loads(b"".join(coco(images, ["melanoma", "nevus"], lambda record: record.name)))
        assert len(exported["images"]) == len(images)
        assert len(exported["annotations"]) == sum(one.area > 0 for one in images)
        for one in exported["annotations"]:
            assert np.array_equal(decoded(one["segmentation"]["counts"], (64, 64)), mask)
            assert one["area"] == mask.sum()
            assert one["category_id"] == 2


def test_a_zip_is_written_while_it_is_read():
    pieces = list(zipped([("a.dcm", b"one"), ("labels.json", iter([b"t", b"wo"]))]))
    assert len(pieces) > 2
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
        assert archive.testzip() is None
        assert (archive.read("a.dcm"), archive.read("labels.json")) == (b"one", b"two")


def test_what_is_no_structured_report_is_damaged():
    with pytest.raises(RecordDamaged):
        content(b"not DICOM")
