"""The pipeline against a real object store and a real Triton."""

import re
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dermbatch import layout
from dermbatch.errors import InferenceUnavailable, ObjectNotFound, PermanentError, UsageError
from dermbatch.images import png
from dermbatch.metrics import STORE_REQUESTS
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import dicom
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.settings import TritonSettings, WorkerSettings
from dermbatch.stages import ORDER, Stage
from dermbatch.store import ObjectStore
from orchestrator.stack.ports import free_ports
from orchestrator.steering import canary
from workers.process.journey import process
from workers.process.shadow import run_shadow
from workers.triton.client import TritonClient

MODELS = {stage: ModelChoice(name=f"{stage}_tiny") for stage in Stage} | {
    Stage.SEGMENT: ModelChoice(name="segment_tiny", version="1")  # version 2 halves its probabilities: no lesion
}


@pytest.fixture
def store(empty_store):
    return ObjectStore(empty_store)


@pytest.fixture(scope="module")
def inferences(digested_triton):
    """Requests that each model has answered, by Triton's own counters, once they are at rest."""

    def at_rest():
        # Triton counts a request after its answer is on the way.
        seen = [ask()]
        while len(seen) < 3 or seen[-1] != seen[-3]:
            time.sleep(0.2)
            seen.append(ask())
        return seen[-1]

    def ask():
        with urllib.request.urlopen(f"http://127.0.0.1:{digested_triton.ports.metrics}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        counts = {}
        for line in lines:
            if found := re.match(r'nv_inference_request_success\{model="(\w+)",version="(\d+)"\} (\d+)', line):
                counts[found[1], found[2]] = int(found[3])
        return counts

    return at_rest


def listed(store, name="a", *, models=MODELS, stages=ORDER, shadow=None, batch="b"):
    """A job as the planner makes it of what a listing says."""
    (info,) = store.list(store.incoming_bucket, name)
    return ImageJob(
        batch=batch,
        index=0,
        name=name,
        source=f"s3://{store.incoming_bucket}/{name}",
        order=Order(stages=stages, models=models),
        size=info.size,
        etag=info.etag,
        shadow=shadow,
    )


def do(store, client, job, *, limits=None):
    return process(
        job,
        store=store,
        client=client,
        limits=limits or WorkerSettings(),
        attempt=1,
        worker="w",
        alive=lambda: None,
    )


def run(store, client, body, *, models=MODELS, stages=ORDER, limits=None, name="a"):
    store.put(name, body, "application/octet-stream", bucket=store.incoming_bucket)
    return do(store, client, listed(store, name, models=models, stages=stages), limits=limits)


def keys(store):
    return {info.key for info in store.list(store.bucket, "")}


def requests():
    """Requests to the store so far, by operation."""
    (family,) = STORE_REQUESTS.collect()
    return Counter({s.labels["operation"]: s.value for s in family.samples if s.name.endswith("_total")})


@pytest.fixture(scope="module")
def image():
    return phantom(3, height=480, width=640)


def test_from_object_to_artifacts_and_from_then_on_from_the_cache(store, client, image):
    record = run(store, client, png.encode(image.image))
    written = keys(store)
    named = {key for stage in record.stages.values() for key in stage.artifacts.values()}
    inline = {stage.artifacts[name] for stage in record.stages.values() for name in stage.inline}
    assert len(inline) == 2
    (known,) = written - named
    assert written == (named - inline) | {known}
    purified = png.decode(store.get(store.bucket, record.stages[Stage.PURIFY].artifacts["purified.png"]))
    assert purified.shape == image.image.shape
    np.testing.assert_array_equal(purified, 255 - image.image)  # purify_tiny inverts
    again = run(store, client, png.encode(image.image), name="b")
    assert again.cached == ORDER
    assert again.stages == record.stages
    assert keys(store) == written


def test_requests_an_image_of_a_first_run_and_of_a_second(store, client, image, inferences):
    store.put("a", png.encode(image.image), "image/png", bucket=store.incoming_bucket)
    job = listed(store)
    before = requests()
    first = do(store, client, job)
    # The source, which nobody vouches for. Known? Three pictures, and what is known. The record is the task's.
    assert requests() - before == {"get": 2, "put": 4}
    asked, before = inferences(), requests()
    again = do(store, client, job)
    assert requests() - before == {"get": 2, "list": 1}  # the source, what is known, what is there
    assert again.stages == first.stages
    assert inferences() == asked


def test_a_new_segmentation_model_does_not_purify_again(store, client, image, inferences):
    run(store, client, png.encode(image.image))
    before = inferences()
    newest = MODELS | {Stage.SEGMENT: ModelChoice(name="segment_tiny", version="2")}
    job = listed(store, models=newest)
    asked = requests()
    again = do(store, client, job)
    # The source, what is known and what is there, the purified picture; the mask (version 2 finds no lesion), and
    # what is known now.
    assert requests() - asked == {"get": 3, "list": 1, "put": 2}
    after = inferences()
    ran = {model for model in after if after[model] > before.get(model, 0)}
    assert again.cached == (Stage.PURIFY,)
    assert ("segment_tiny", "2") in ran
    assert not ran & {("purify_tiny", "1"), ("segment_tiny", "1")}


def test_a_canary_leaves_results_alone_and_reports_how_it_agrees(store, client, image):
    run(store, client, png.encode(image.image))
    tried = canary.start(store, "two", {Stage.SEGMENT: ModelChoice(name="segment_tiny", version="2")}, 1)
    job = canary.choose(tried, listed(store))
    record = do(store, client, job)
    before = keys(store)
    run_shadow(job, record, store=store, client=client, limits=WorkerSettings(), alive=lambda: None)
    new = keys(store) - before
    assert layout.canary_result("two", "b", 0) in new
    assert not {key for key in new if key.startswith("batches/")}
    report = canary.report(store, "two")
    # Version 2 sees no lesion where version 1 sees one.
    assert (report.images, report.failures, report.mean_dice) == (1, {}, 0.0)
    assert report.worst[0].models[Stage.SEGMENT].version == "2"
    assert canary.stop(store, "two").stopped is not None
    assert do(store, client, listed(store)).stages == record.stages


def test_of_two_canaries_started_at_once_one_runs(store):
    def start(n):
        try:
            return canary.start(store, f"c{n}", {Stage.SEGMENT: ModelChoice(name="segment_tiny")}, 0.5)
        except UsageError:
            return None

    with ThreadPoolExecutor(6) as pool:
        started = [one for one in pool.map(start, range(6)) if one is not None]
    assert started == [canary.running(store)]


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
    job = ImageJob(batch="b", index=0, name="x", source="s3://incoming/none", order=Order(models=MODELS))
    with pytest.raises(ObjectNotFound):
        process(
            job, store=store, client=client, limits=WorkerSettings(), attempt=1, worker="w", alive=lambda: None
        )
