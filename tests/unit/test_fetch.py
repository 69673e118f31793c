import hashlib
import io

import cv2
import numpy as np
import pytest
from standins import Store, skin_with_lesion, whole_triton

from dermbatch import layout
from dermbatch.errors import ObjectNotFound
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.records.outcome import StageRecord
from dermbatch.settings import WorkerSettings
from dermbatch.stages import Stage
from orchestrator.reporting.fetch import DiskFull, fetch, folder_results
from workers.process.journey import process

MODELS = {stage: ModelChoice(name=stage.value) for stage in Stage}
JSON = "application/json"


def finished(count=3):
    """A store with a batch of images, processed and closed, and the records."""
    store, triton = Store(), whole_triton()
    records = []
    for index in range(count):
        image = skin_with_lesion(60, 80, radius=10 + 5 * index)
        body = bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1])
        store.put(f"{index}.png", body, "image/png", bucket="incoming")
        job = ImageJob(
            batch="b", index=index, name="a", source=f"s3://incoming/{index}.png", order=Order(models=MODELS)
        )
        servers = {"store": store, "client": triton, "limits": WorkerSettings()}
        records.append(process(job, **servers, attempt=1, worker="w", alive=lambda: None))
        store.put(layout.result("b", index), records[-1].to_json(), JSON)
    store.put(layout.batch_record("b"), b"{}", JSON)
    store.put(layout.manifest_part("b", "000000"), b"{}\n", JSON)
    store.put(layout.report("b"), b"<p>first</p>", "text/html")
    return store, records


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_folder_has_the_documented_layout(tmp_path):
    store, records = finished()
    written = fetch(store, "b", tmp_path)
    expected = {"report.html", *(key for key in store.keys("^batches/"))}
    for record in records:
        expected.add(record.preview)
        for stage in record.stages.values():
            expected |= set(stage.artifacts.values())
            expected.add(layout.artifact(record.source.sha256, stage.stage, stage.key, "stage.json"))
    assert files(tmp_path) == expected
    assert written == len(expected) - 1  # the report beside the batches is a copy
    assert sorted(record.index for record in folder_results(tmp_path, "b")) == [0, 1, 2]


def test_small_files_come_out_of_the_records(tmp_path):
    store, (record,) = finished(1)
    fetch(store, "b", tmp_path)
    classified = record.stages[Stage.CLASSIFY]
    embedding = np.load(io.BytesIO((tmp_path / classified.artifacts["embedding.npy"]).read_bytes()))
    assert hashlib.sha256(embedding.tobytes()).hexdigest() == classified.output.embedding_sha256
    assert (tmp_path / classified.artifacts["saliency.png"]).read_bytes() == classified.inline["saliency.png"]
    assert (tmp_path / record.preview).read_bytes() == record.preview_jpeg
    place = layout.artifact(record.source.sha256, Stage.CLASSIFY, classified.key, "stage.json")
    alone = StageRecord.model_validate_json((tmp_path / place).read_bytes())
    assert (alone.image.sha256, alone.image.height, alone.inline) == (record.source.sha256, 60, {})
    assert alone.model_copy(update={"image": None, "inline": classified.inline}) == classified


def test_a_second_fetch_brings_only_what_is_new(tmp_path):
    store, _ = finished()
    fetch(store, "b", tmp_path)
    assert fetch(store, "b", tmp_path) == 0
    store.put(layout.report("b"), b"<p>second</p>", "text/html")
    store.put(layout.failure("b", 9), b"{}", JSON)
    store.requests.clear()
    assert fetch(store, "b", tmp_path) == 2
    assert not [key for what, key in store.requests if what == "get" and key.startswith("images/")]
    assert (tmp_path / "report.html").read_text() == "<p>second</p>"
    assert (tmp_path / layout.report("b")).read_text() == "<p>second</p>"


def test_a_batch_that_is_not_finished_can_be_fetched(tmp_path):
    store, _ = finished()
    store.delete(layout.report("b"))
    fetch(store, "b", tmp_path)
    assert not (tmp_path / "report.html").exists()
    store.put(layout.report("b"), b"<p>done</p>", "text/html")
    fetch(store, "b", tmp_path)
    assert (tmp_path / "report.html").read_text() == "<p>done</p>"


def test_a_deleted_artifact_is_told_after_everything_else_was_brought(tmp_path):
    store, records = finished()
    fetch(store, "b", tmp_path / "whole")
    gone = records[1].stages[Stage.SEGMENT].artifacts["mask.png"]
    store.delete(gone)
    with pytest.raises(ObjectNotFound) as caught:
        fetch(store, "b", tmp_path / "rest")
    assert gone in str(caught.value)
    assert "images/known/" in str(caught.value)
    assert files(tmp_path / "rest") == files(tmp_path / "whole") - {gone}


def test_local_artifacts_are_linked_and_what_may_change_is_not(tmp_path):
    store, records = finished(1)
    disk = tmp_path / "disk"
    for (bucket, key), body in store.objects.items():
        if bucket == store.bucket:
            (disk / key).parent.mkdir(parents=True, exist_ok=True)
            (disk / key).write_bytes(body)
    fetch(store, "b", tmp_path / "out", file_of=lambda key: disk / key)
    mask = records[0].stages[Stage.SEGMENT].artifacts["mask.png"]
    assert (tmp_path / "out" / mask).samefile(disk / mask)
    report = layout.report("b")
    assert not (tmp_path / "out" / report).samefile(disk / report)


def test_a_folder_that_takes_no_files_is_told(tmp_path):
    store, _ = finished(1)
    (tmp_path / "batches").write_bytes(b"a file where a folder has to be")
    with pytest.raises(DiskFull, match="the store still has it"):
        fetch(store, "b", tmp_path)


def test_a_record_that_goes_while_it_is_fetched_is_left_out(tmp_path):
    store, _ = finished(1)
    gone = layout.failure("b", 7)
    store.put(gone, b"{}", JSON)
    listed = list(store.list(store.bucket, "batches/"))
    store.list = lambda bucket, prefix: iter(listed)
    store.delete(gone)  # as a retry does
    fetch(store, "b", tmp_path)
    assert not (tmp_path / gone).exists()


def test_dicom_objects_are_brought_once(tmp_path):
    store, _ = finished(1)
    key = layout.dicom("b", 0, "report")
    store.put(key, b"object", "application/dicom")
    fetch(store, "b", tmp_path)
    assert (tmp_path / key).read_bytes() == b"object"
    store.requests.clear()
    fetch(store, "b", tmp_path)
    assert ("get", key) not in store.requests
