"""Copies of results under the user's own prefix, by a real object store and a real Triton."""

import json
from collections import Counter

import pytest

from dermbatch.errors import PermanentError, StoreRefused
from dermbatch.metrics import STORE_REQUESTS
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import dicom
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.records.outcome import ResultRecord
from dermbatch.settings import WorkerSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from workers.process.journey import process

MODELS = {stage: ModelChoice(name=f"{stage}_tiny") for stage in Stage} | {
    Stage.SEGMENT: ModelChoice(name="segment_tiny", version="1")
}
NO_LESION = {**MODELS, Stage.SEGMENT: ModelChoice(name="segment_tiny", version="2")}
FOLDER = "results/hospital/study/IM1"
PICTURES = ["enhanced.png", "mask.png", "purified.png", "result.json"]


@pytest.fixture
def store(empty_store):
    store = ObjectStore(empty_store)
    store.create_bucket("ward")
    store.delete_prefix("ward", "")
    return store


@pytest.fixture
def run(store, client):
    store.put("a", dicom(phantom(7, height=240, width=320), identity=7), "application/dicom", bucket="incoming")

    def run(output="s3://ward/results/", *, models=MODELS, wants_dicom=False):
        (info,) = store.list("incoming", "a")
        job = ImageJob(
            batch="b",
            index=0,
            name="s3://hospital/study/IM1",
            source="s3://incoming/a",
            order=Order(models=models, dicom=wants_dicom, output=output),
            size=info.size,
            etag=info.etag,
        )
        words = {"store": store, "client": client, "limits": WorkerSettings()}
        return process(job, **words, attempt=1, worker="w", alive=lambda: None)

    return run


def there(store):
    return {info.key: store.get("ward", info.key) for info in store.list("ward", "")}


def requests():
    (family,) = STORE_REQUESTS.collect()
    return Counter({s.labels["operation"]: s.value for s in family.samples if s.name.endswith("_total")})


def test_an_images_files_lie_together_under_its_own_name(store, run):
    record = run(wants_dicom=True)
    assert record.output == f"s3://ward/{FOLDER}"
    found = there(store)
    names = sorted([*PICTURES, "seg.dcm", "sr.dcm", "enhanced.dcm"])
    assert sorted(found) == [f"{FOLDER}/{name}" for name in names]
    assert ResultRecord.model_validate_json(found[f"{FOLDER}/result.json"]) == record
    mask = store.get(store.bucket, record.stages[Stage.SEGMENT].artifacts["mask.png"])
    assert found[f"{FOLDER}/mask.png"] == mask
    assert found[f"{FOLDER}/sr.dcm"] == store.get(store.bucket, record.dicom["report"])


def test_a_repeat_writes_the_same_and_asks_for_no_more_than_it_copies(store, run):
    run()
    first = there(store)
    before = requests()
    run()
    # One listing is this test's; the source is opened, since nobody else vouches for what it is.
    assert requests() - before == {"list": 2, "get": 2, "copy": 3, "put": 1}
    again = there(store)
    assert {key: body for key, body in again.items() if not key.endswith(".json")} == {
        key: body for key, body in first.items() if not key.endswith(".json")
    }
    assert again.keys() == first.keys()


def test_what_is_made_no_more_goes(store, run):
    run(wants_dicom=True)
    run(models=NO_LESION, wants_dicom=True)
    found = there(store)
    assert sorted(found) == [f"{FOLDER}/{name}" for name in ("mask.png", "purified.png", "result.json", "sr.dcm")]
    assert json.loads(found[f"{FOLDER}/result.json"])["flags"]


def test_pictures_that_are_gone_are_made_again(store, run):
    first = run()
    store.delete(first.stages[Stage.PURIFY].artifacts["purified.png"])
    second = run()
    assert set(second.cached) == set(Stage) - {Stage.PURIFY}  # what is whole stays
    assert f"{FOLDER}/purified.png" in there(store)


def test_a_bucket_that_is_not_there(run):
    with pytest.raises(PermanentError) as raised:
        run("s3://nowhere/results")
    assert raised.value.reason == "bucket_not_found"


@pytest.mark.parametrize("operation", ["copy", "put"])
def test_an_output_that_must_not_be_written_is_a_failure(store, run, monkeypatch, operation):
    write = getattr(store, operation)

    def refused(*words, bucket=None, **more):
        if bucket == "ward":
            raise StoreRefused("no")
        return write(*words, bucket=bucket, **more)

    monkeypatch.setattr(store, operation, refused)
    with pytest.raises(PermanentError) as raised:
        run()
    assert raised.value.reason == "output_refused"
