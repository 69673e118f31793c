"""The pipeline against a real object store and a real Triton."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from digests import copy_with_digests

from dermbatch.errors import InferenceUnavailable, ObjectNotFound, PermanentError
from dermbatch.phantoms import phantom
from dermbatch.phantoms.samples import dicom
from dermbatch.records import ImageJob, ModelChoice
from dermbatch.settings import TritonSettings, WorkerSettings
from dermbatch.stages import ORDER, Stage
from dermbatch.store import ObjectStore
from orchestrator.stack.ports import free_ports
from workers import png
from workers.inference import TritonClient
from workers.pipeline import process

MODELS = {stage: ModelChoice(name=f"{stage}_tiny") for stage in Stage} | {
    Stage.SEGMENT: ModelChoice(name="segment_tiny", version="1")  # version 2 halves its probabilities: no lesion
}


@pytest.fixture(scope="module")
def client(start_triton, tiny_repository, tmp_path_factory):
    repository = copy_with_digests(tiny_repository, tmp_path_factory.mktemp("models") / "repository")
    client = TritonClient(start_triton(repository).settings)
    yield client
    client.close()


@pytest.fixture
def store(empty_store):
    return ObjectStore(empty_store)


def run(store, client, body, *, models=MODELS, stages=ORDER, limits=None, name="a"):
    store.put(name, body, "application/octet-stream", bucket=store.incoming_bucket)
    job = ImageJob(
        batch="b", index=0, name=name, source=f"s3://{store.incoming_bucket}/{name}", stages=stages, models=models
    )
    return process(
        job,
        store=store,
        client=client,
        limits=limits or WorkerSettings(),
        attempt=1,
        worker="w",
        alive=lambda: None,
    )


def keys(store):
    return {info.key for info in store.list(store.bucket, "")}


@pytest.fixture(scope="module")
def image():
    return phantom(3, height=480, width=640)


def test_from_object_to_artifacts_and_from_then_on_from_the_cache(store, client, image):
    record = run(store, client, png.encode(image.image))
    written = keys(store)
    named = {key for stage in record.stages.values() for key in stage.artifacts.values()}
    assert named | {record.preview} <= written
    assert len(written) == len(named) + 1 + len(ORDER)  # the preview, and a stage.json each
    purified = png.decode(store.get(store.bucket, record.stages[Stage.PURIFY].artifacts["purified.png"]))
    assert purified.shape == image.image.shape
    np.testing.assert_array_equal(purified, 255 - image.image)  # purify_tiny inverts
    again = run(store, client, png.encode(image.image), name="b")
    assert again.cached == ORDER
    assert again.stages == record.stages
    assert keys(store) == written


def test_another_version_of_a_model_recomputes_what_hangs_on_it(store, client, image):
    body = png.encode(image.image)
    run(store, client, body)
    newest = MODELS | {Stage.SEGMENT: ModelChoice(name="segment_tiny")}
    again = run(store, client, body, models=newest)
    assert again.cached == (Stage.PURIFY,)
    assert again.stages[Stage.SEGMENT].model.version == "2"


def test_a_dicom_image_is_measured_in_millimetres(store, client, image):
    record = run(store, client, dicom(image, identity=1), stages=(Stage.SEGMENT,))
    assert record.source.media_type == "application/dicom"
    lesion = record.stages[Stage.SEGMENT].output.lesion
    row, column = record.source.pixel_spacing_mm
    assert lesion.area_mm2 == pytest.approx(lesion.area_px * row * column)


def test_two_workers_on_one_image_do_not_disturb_each_other(store, client, image):
    body = png.encode(image.image)
    with ThreadPoolExecutor(4) as pool:
        records = list(pool.map(lambda n: run(store, client, body, name=f"copy-{n}"), range(4)))
    outputs = [{stage: found.output for stage, found in record.stages.items()} for record in records]
    assert all(output == outputs[0] for output in outputs)
    mask = png.decode(store.get(store.bucket, records[0].stages[Stage.SEGMENT].artifacts["mask.png"]))
    assert np.count_nonzero(mask) == outputs[0][Stage.SEGMENT].lesion.area_px


def test_a_large_file_is_refused_unread(store, client, image):
    with pytest.raises(PermanentError) as caught:
        run(store, client, png.encode(image.image), limits=WorkerSettings(max_bytes=1000))
    assert caught.value.reason == "too_large"


def test_a_missing_object_and_a_missing_triton(store, client, image):
    body = png.encode(image.image)
    nobody = TritonClient(TritonSettings(url=f"127.0.0.1:{free_ports(1)[0]}"))
    with pytest.raises(InferenceUnavailable):
        run(store, nobody, body)
    nobody.close()
    job = ImageJob(batch="b", index=0, name="x", source="s3://incoming/none", stages=ORDER, models=MODELS)
    with pytest.raises(ObjectNotFound):
        process(
            job, store=store, client=client, limits=WorkerSettings(), attempt=1, worker="w", alive=lambda: None
        )
