import hashlib
import io
import os
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from standins import Store, skin_with_lesion, whole_triton

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, SourceGone, StoreUnavailable
from dermbatch.records.asked import Batch, ImageJob, ManifestEntry, ModelChoice, Order
from dermbatch.records.outcome import FailureRecord, ResultRecord, StageRecord
from dermbatch.settings import WorkerSettings
from dermbatch.stages import Stage
from orchestrator.batches.outcomes import read_artifact
from orchestrator.reporting.fetch import Fetching, Incomplete, fetch
from orchestrator.reporting.folder import DiskFull, OutOfFolder
from orchestrator.reporting.verifying import verify
from workers.process.journey import process

MODELS = {stage: ModelChoice(name=stage.value) for stage in Stage}
JSON = "application/json"
FAILURE = FailureRecord(
    batch="b",
    index=0,
    name="a",
    source=None,
    reason="corrupt",
    message="m",
    permanent=True,
    attempts=1,
    failed=datetime(2026, 3, 1, tzinfo=UTC),
    software="1",
)


def finished(count=3, *, hair=False, whole=True):
    """A store with a batch of images, processed and closed, and the records."""
    store = Store()
    objects, records = processed(count, hair, whole)
    store.objects = objects.copy()
    return store, list(records)


@cache
def processed(count, hair, whole):
    """Its objects and records: to process images costs more than to fetch what came of them."""
    store, triton = Store(), whole_triton()
    records = []
    for index in range(count):
        image = skin_with_lesion(60, 80, radius=10 + 5 * index, hair=hair)
        body = bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1])
        store.put(f"{index}.png", body, "image/png", bucket="incoming")
        job = ImageJob(
            batch="b", index=index, name="a", source=f"s3://incoming/{index}.png", order=Order(models=MODELS)
        )
        servers = {"store": store, "client": triton, "limits": WorkerSettings(whole_pictures=whole)}
        records.append(process(job, **servers, attempt=1, worker="w", alive=lambda: None))
        store.put(layout.result("b", index), records[-1].to_json(), JSON)
    store.put(layout.batch_record("b"), b"{}", JSON)
    store.put(layout.manifest_part("b", "000000"), b"{}\n", JSON)
    store.put(layout.report("b"), b"<p>first</p>", "text/html")
    return store.objects, records


def again(store, index):
    """The image of ``finished`` with this index, in another batch."""
    job = ImageJob(
        batch="again", index=index, name="a", source=f"s3://incoming/{index}.png", order=Order(models=MODELS)
    )
    servers = {"store": store, "client": whole_triton(), "limits": WorkerSettings(whole_pictures=True)}
    return process(job, **servers, attempt=1, worker="w", alive=lambda: None)


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
    records = map(Path.read_bytes, (tmp_path / "batches" / "b" / "results").glob("*/*.json"))
    assert sorted(ResultRecord.model_validate_json(record).index for record in records) == [0, 1, 2]


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


def outside(folder):
    """A folder beside it, of which nothing may be written."""
    place = folder.with_name("outside")
    place.mkdir()
    (place / "own.txt").write_text("own")
    return place


@pytest.mark.parametrize(
    "key",
    [
        "batches/b/../../../evil",
        "batches/b//etc/evil",
        "batches/b/./x",
        "batches/b/dicom/../../x",
        f"batches/b/{'x' * 256}",
    ],
)
def test_keys_that_lead_out_of_the_folder_are_refused_by_name_and_all_else_is_brought(tmp_path, key):
    store, _ = finished(1)
    fetch(store, "b", tmp_path / "whole")
    store.put(key, b"evil", JSON)
    with pytest.raises(Incomplete, match="1 files") as caught:
        fetch(store, "b", tmp_path / "out" / "of")
    assert key in str(caught.value)
    assert files(tmp_path / "out" / "of") == files(tmp_path / "whole")
    assert not list(tmp_path.rglob("evil"))


def test_keys_in_records_are_refused_likewise(tmp_path):
    store, (record,) = finished(1)
    stage = record.stages[Stage.CLASSIFY].model_copy(
        update={"artifacts": {"embedding.npy": "../../evil", "saliency.png": "/tmp/evil"}}
    )
    planted = record.model_copy(update={"stages": {Stage.CLASSIFY: stage}, "preview": "../evil"})
    store.objects["results", layout.result("b", 0)] = planted.to_json()
    with pytest.raises(Incomplete, match="3 files") as caught:
        fetch(store, "b", tmp_path / "out")
    assert all(name in str(caught.value) for name in ("'../../evil'", "'/tmp/evil'", "'../evil'"))
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize(
    "place", ["batches", "images", "batches/b/results", "report.html", "batches/b/report.html"]
)
def test_a_symbolic_link_that_was_planted_is_refused_by_name(tmp_path, place):
    store, _ = finished(1)
    folder = tmp_path / "out"
    beside = outside(folder)
    link = folder / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(beside / "own.txt" if place.endswith(".html") else beside)
    with pytest.raises((Incomplete, OutOfFolder), match="symbolic link") as caught:
        fetch(store, "b", folder)
    assert place in str(caught.value)
    assert files(beside) == {"own.txt"}
    assert (beside / "own.txt").read_text() == "own"


def test_the_folder_itself_may_be_reached_through_a_link(tmp_path):
    store, _ = finished(1)
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    fetch(store, "b", tmp_path / "out")
    assert (tmp_path / "real" / "report.html").exists()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path, umask):
    store, _ = finished(1)
    before = os.umask(umask)
    try:
        fetch(store, "b", tmp_path / "out")
    finally:
        os.umask(before)
    for path in (tmp_path / "out").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask


@pytest.mark.parametrize("damage", [b"", None, b"cut", b"flip"])
def test_one_bad_object_ends_no_fetch_and_is_made_again_by_the_next_run(tmp_path, damage):
    store, records = finished()
    fetch(store, "b", tmp_path / "whole")
    key = records[1].stages[Stage.SEGMENT].artifacts["mask.png"]
    good = store.objects.pop(("results", key))
    if damage is not None:
        store.objects["results", key] = {b"cut": good[:-9], b"flip": good[:-1] + b"x"}.get(damage, damage)
    with pytest.raises(Incomplete) as caught:
        fetch(store, "b", tmp_path / "rest")
    assert key in str(caught.value)
    assert files(tmp_path / "rest") == files(tmp_path / "whole") - {key}
    again(store, 1)
    assert store.objects["results", key] == good
    fetch(store, "b", tmp_path / "rest")
    assert (tmp_path / "rest" / key).read_bytes() == good


def test_what_was_damaged_in_the_folder_is_brought_again(tmp_path):
    store, records = finished(1)
    store.put(layout.dicom("b", 0, "report"), b"object", "application/dicom")
    fetch(store, "b", tmp_path)
    whole = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    for number, name in enumerate(sorted(whole)):
        if name.endswith("stage.json"):
            continue
        (tmp_path / name).write_bytes([b"", whole[name][:-1], whole[name][:5]][number % 3])
    (tmp_path / records[0].stages[Stage.PURIFY].artifacts["purified.png"]).unlink()
    fetch(store, "b", tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == whole


def test_a_damaged_record_is_named_and_the_other_images_are_brought(tmp_path):
    store, records = finished()
    store.put(layout.result("b", 1), b"{", JSON)
    with pytest.raises(Incomplete, match=r"results/000000/1\.json") as caught:
        fetch(store, "b", tmp_path)
    assert "1 files" in str(caught.value)
    for record in (records[0], records[2]):
        assert (tmp_path / record.stages[Stage.SEGMENT].artifacts["mask.png"]).exists()


def test_objects_that_the_store_does_not_give_are_named_unless_it_gives_nothing(tmp_path):
    store, records = finished()
    key = records[1].stages[Stage.SEGMENT].artifacts["mask.png"]
    read = store.read

    def failing(*keys):
        def get(bucket, name, **more):
            if any(part in name for part in keys):
                raise StoreUnavailable("the object store did not get in s3://results: 500")
            return read(bucket, name, **more)

        return get

    store.read = failing(key)
    with pytest.raises(Incomplete, match=r"mask\.png"):
        fetch(store, "b", tmp_path)
    for index in range(20):
        store.put(layout.failure("b", 100 + index), b"{}", JSON)
    store.read = failing("failed/")
    with pytest.raises(StoreUnavailable):
        fetch(store, "b", tmp_path)


def test_verifying_names_what_is_wrong_and_forgets_it(tmp_path):
    store, records = finished(4)
    batch = Batch(name="b", created=records[0].started, order=Order(models=MODELS), software="1", images=6)
    entries = [ManifestEntry(index=index, name="a", source="s3://x/y") for index in range(6)]
    store.put(layout.manifest_part("b", "000000"), b"".join(entry.to_json() + b"\n" for entry in entries), JSON)
    failure = FAILURE.model_copy(update={"batch": "b", "index": 4})
    store.put(layout.failure("b", 4), failure.to_json(), JSON)
    complaints = []
    found = verify(store, batch, complaints.append)
    assert (found.results, found.failures, found.files, found.unchecked, found.bad) == (4, 1, 12, 0, 1)
    assert ["results/000000/5.json does not exist" in sentence for sentence in complaints] == [True]
    mask, purified = (
        records[index].stages[stage].artifacts[name]
        for index, stage, name in ((0, Stage.SEGMENT, "mask.png"), (1, Stage.PURIFY, "purified.png"))
    )
    good = dict(store.objects)
    store.delete(mask)
    store.objects["results", purified] = store.objects["results", purified][:-1] + b"x"
    store.put(layout.result("b", 2), b"{}", JSON)
    store.put(layout.failure("b", 4), b"", JSON)
    complaints.clear()
    found = verify(store, batch, complaints.append)
    assert (found.results, found.failures, found.bad) == (3, 0, 5)
    named = (mask, purified, "results/000000/2.json", "failed/000000/4.json", "results/000000/5.json")
    assert all(any(name in sentence for sentence in complaints) for name in named)
    for index, key in ((0, mask), (1, purified)):
        again(store, index)
        assert store.objects["results", key] == good["results", key]


def test_pictures_kept_as_differences_are_brought_whole(tmp_path):
    store, records = finished(hair=True, whole=False)
    before, _ = finished(hair=True)
    keys = [record.stages[Stage.PURIFY].artifacts["purified.png"] for record in records]
    assert all(record.stages[Stage.PURIFY].differences for record in records)
    assert not any(("results", key) in store.objects for key in keys)
    fetch(store, "b", tmp_path)
    for key in keys:
        assert (tmp_path / key).read_bytes() == before.objects["results", key]
    assert fetch(store, "b", tmp_path) == 0
    (tmp_path / keys[1]).write_bytes(b"torn")
    assert fetch(store, "b", tmp_path) == 1
    assert (tmp_path / keys[1]).read_bytes() == before.objects["results", keys[1]]


@pytest.mark.parametrize("now", [None, b"another", b"another that is much longer than the source was" * 100])
def test_a_picture_whose_source_is_gone_is_refused_and_all_else_brought(tmp_path, now):
    store, records = finished(hair=True, whole=False)
    del store.objects["incoming", "1.png"]
    if now is not None:
        store.put("1.png", now, "image/png", bucket="incoming")
    purified, mask = (
        records[1].stages[stage].artifacts[name]
        for stage, name in ((Stage.PURIFY, "purified.png"), (Stage.SEGMENT, "mask.png"))
    )
    with pytest.raises(Incomplete, match=r"1 files.*s3://incoming/1.png") as raised:
        fetch(store, "b", tmp_path)
    assert purified in str(raised.value)
    assert not (tmp_path / purified).exists()
    assert (tmp_path / mask).exists()
    assert ("results", layout.known_of(records[1].source.sha256)) in store.objects  # nothing of it is damaged
    with pytest.raises(SourceGone):
        read_artifact(store, records[1], "purified.png")
    assert (
        read_artifact(store, records[0], "purified.png")
        == (tmp_path / records[0].stages[Stage.PURIFY].artifacts["purified.png"]).read_bytes()
    )


def test_verifying_makes_pictures_whole_and_says_which_cannot_be():
    store, records = finished(3, hair=True, whole=False)
    batch = Batch(name="b", created=records[0].started, order=Order(models=MODELS), software="1", images=3)
    entries = [ManifestEntry(index=index, name="a", source="s3://x/y") for index in range(3)]
    store.put(layout.manifest_part("b", "000000"), b"".join(entry.to_json() + b"\n" for entry in entries), JSON)
    complaints = []
    found = verify(store, batch, complaints.append)
    assert (found.results, found.files, found.bad, complaints) == (3, 9, 0, [])
    del store.objects["incoming", "1.png"]
    kept = records[2].stages[Stage.PURIFY].differences["purified.png"]
    other = kept.model_copy(update={"pixels": "0" * 64})
    stages = records[2].stages | {
        Stage.PURIFY: records[2].stages[Stage.PURIFY].model_copy(update={"differences": {"purified.png": other}})
    }
    changed = records[2].model_copy(update={"stages": stages})
    store.put(layout.result("b", 2), changed.to_json(), JSON)
    found = verify(store, batch, complaints.append)
    assert (found.results, found.files, found.bad) == (3, 7, 2)
    assert [("gone" in sentence, "other pixels" in sentence) for sentence in complaints] == [
        (True, False),
        (False, True),
    ]
    known = [("results", layout.known_of(record.source.sha256)) in store.objects for record in records]
    assert known == [True, True, False]


def test_dicom_objects_are_brought_once(tmp_path):
    store, _ = finished(1)
    key = layout.dicom("b", 0, "report")
    store.put(key, b"object", "application/dicom")
    fetch(store, "b", tmp_path)
    assert (tmp_path / key).read_bytes() == b"object"
    store.requests.clear()
    fetch(store, "b", tmp_path)
    assert ("get", key) not in store.requests


class OnThisMachine:
    """The plain files of a store of this machine."""

    def __init__(self, store, folder):
        self.store, self.folder = store, folder

    def __call__(self, key):
        for (_, name), body in self.store.objects.items():
            path = self.folder / name
            if not path.exists() or path.read_bytes() != body:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(body)
        return self.folder / key


def test_results_come_into_the_folder_while_the_batch_runs_and_the_end_brings_the_rest(tmp_path):
    store, _ = finished()
    file_of = OnThisMachine(store, tmp_path / "store")
    all_of_it = fetch(store, "b", tmp_path / "at the end", file_of=file_of)
    third = {layout.result("b", 2): store.objects.pop(("results", layout.result("b", 2)))}
    fetching = Fetching(store, "b", tmp_path / "early", file_of=file_of)
    fetching.early(2)
    early = files(tmp_path / "early")
    assert {layout.result("b", 0), layout.result("b", 1)} < early
    assert any(path.endswith("mask.png") for path in early)
    assert "report.html" not in early
    (tmp_path / "store" / layout.result("b", 2)).unlink()
    fetching.early(3)  # the third is still worked on
    assert files(tmp_path / "early") == early
    store.objects |= {("results", key): body for key, body in third.items()}
    store.requests.clear()
    assert fetching.finish() == all_of_it
    assert files(tmp_path / "early") == files(tmp_path / "at the end")
    assert ("get", layout.result("b", 0)) not in store.requests


def test_what_could_not_come_early_is_answered_for_at_the_end(tmp_path):
    store, records = finished(2)
    file_of = OnThisMachine(store, tmp_path / "store")
    bad = records[0].stages[Stage.SEGMENT].artifacts["mask.png"]
    store.put(bad, b"damaged", "image/png")
    fetching = Fetching(store, "b", tmp_path / "out", file_of=file_of)
    fetching.early(2)
    with pytest.raises(Incomplete, match=r"mask\.png"):
        fetching.finish()
    assert layout.result("b", 1) in files(tmp_path / "out")


def test_an_image_that_fails_keeps_no_other_from_coming_early(tmp_path):
    store, _ = finished(3)
    file_of = OnThisMachine(store, tmp_path / "store")
    del store.objects["results", layout.result("b", 0)]
    store.put(layout.failure("b", 0), FAILURE.to_json(), JSON)
    fetching = Fetching(store, "b", tmp_path / "out", file_of=file_of)
    for begun in (1, 2, 3, 3):
        fetching.early(begun)
    assert {layout.result("b", 1), layout.result("b", 2)} < files(tmp_path / "out")
    fetching.finish()
    assert layout.failure("b", 0) in files(tmp_path / "out")
