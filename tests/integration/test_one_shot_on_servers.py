"""The shipped one-shot pair, a support and a batch: on real servers, by Triton and in the worker itself."""

import shutil

import numpy as np
import pytest
from messages import messages_of

from dermbatch import layout
from dermbatch.images import png
from dermbatch.images.lesion import dice
from dermbatch.ledger import Ledger
from dermbatch.models.repository import default_model_repository
from dermbatch.phantoms.phantom import phantom
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.records.outcome import FailureRecord, ResultRecord
from dermbatch.records.signature import signed
from dermbatch.settings import LedgerSettings, Settings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.supports import kept
from workers.image import support
from workers.inference.onnx import OnnxRuntime
from workers.process.drain import Drain
from workers.process.journey import process
from workers.process.lease import LeaseKeeper
from workers.process.task import process_image
from workers.process.workplace import Workplace
from workers.triton.client import TritonClient

PAIR = "segment_oneshot", "oneshot_support"
IMAGES = 3


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A model repository of the pair alone."""
    folder = tmp_path_factory.mktemp("pair")
    for name in PAIR:
        shutil.copytree(default_model_repository() / name, folder / name)
    return folder


@pytest.fixture(params=["triton", "onnxruntime"])
def client(request, pair, start_triton):
    found = TritonClient(start_triton(pair).settings) if request.param == "triton" else OnnxRuntime(pair)
    yield found
    found.close()


def ring(seed):
    return phantom(seed, height=240, width=320, kind="ring", occlusions=())


@pytest.fixture
def place(client, empty_redis, empty_store, monkeypatch):
    """A worker that has read no support yet, in a store with images of a batch and a support of two pictures."""
    monkeypatch.setattr(support, "_known", {})
    ledger_settings = LedgerSettings(lease=5, heartbeat=1)
    settings = Settings(redis=empty_redis, store=empty_store, ledger=ledger_settings)
    ledger, drain = Ledger(empty_redis, ledger_settings), Drain(grace=30)
    keeper = LeaseKeeper(ledger, "w", ledger_settings.heartbeat, drain)
    keeper.start()
    store = ObjectStore(empty_store)
    place = Workplace(settings, store, ledger, client, keeper, drain, "w", process)
    for seed in (900, 950):
        drawn = ring(seed)
        kept.add(store, "demo", drawn.image, drawn.lesion.astype(np.uint8), "pale rings")
    for index in range(IMAGES):
        store.put(f"b/{index}", png.encode(ring(901 + index).image), "image/png", bucket=store.incoming_bucket)
    yield place
    place.close()


def work(place, index, shown):
    """What becomes of an image of the batch."""
    store = place.store
    (info,) = store.list(store.incoming_bucket, f"b/{index}")
    models = {Stage.SEGMENT: ModelChoice(name=PAIR[0])}
    job = ImageJob(
        batch="b",
        index=index,
        name=f"{index}.png",
        source=f"s3://{store.incoming_bucket}/{info.key}",
        order=Order(stages=(Stage.SEGMENT,), models=models, support=shown),
        size=info.size,
        etag=info.etag,
    )
    redis = place.settings.redis
    assert place.ledger.images.enqueue(messages_of([job], redis)) == 1
    process_image(place, signed(job, redis.signing_key))
    there = {one.key for one in store.list(store.bucket, layout.batch_prefix("b"))}
    if layout.failure("b", index) in there:
        return FailureRecord.model_validate_json(store.get(store.bucket, layout.failure("b", index)))
    return ResultRecord.model_validate_json(store.get(store.bucket, layout.result("b", index)))


def test_a_batch_is_segmented_as_it_was_shown_until_its_support_is_removed(place, monkeypatch):
    one, two = (kept.named(place.store, text).choice for text in ("demo@1", "demo"))
    first, again = work(place, 0, one), work(place, 1, two)
    for record, chosen, seed in ((first, one, 901), (again, two, 902)):
        segmented = record.stages[Stage.SEGMENT]
        stated = {name: segmented.parameters[name] for name in ("support", "support_sha256", "support_disease")}
        assert stated == {
            "support": f"demo@{chosen.version}",
            "support_sha256": chosen.sha256,
            "support_disease": "pale rings",
        }
        assert segmented.model.name == PAIR[0]
        mask = png.decode(place.store.get(place.store.bucket, segmented.artifacts["mask.png"])) > 0
        assert dice(mask, ring(seed).lesion) > 0.6

    kept.remove(place.store, "demo")
    goes_on = work(place, 2, two)  # by what this process has read
    assert goes_on.stages[Stage.SEGMENT].parameters["support"] == "demo@2"

    monkeypatch.setattr(support, "_known", {})  # another process
    place.store.put("b/3", png.encode(ring(904).image), "image/png", bucket=place.store.incoming_bucket)
    gone = work(place, 3, two)
    assert (gone.reason, gone.attempts) == ("support_gone", 1)
    assert (
        gone.message
        == "support demo version 2 was removed or is damaged; add it again, and submit the images again"
    )
    place.store.put("b/4", png.encode(ring(901).image), "image/png", bucket=place.store.incoming_bucket)
    known = work(place, 4, one)  # the same picture as the first, and the same order: nothing is to be shown
    assert known.stages[Stage.SEGMENT].artifacts == first.stages[Stage.SEGMENT].artifacts


def test_both_engines_find_the_same(pair, start_triton, empty_store, monkeypatch):
    store, found = ObjectStore(empty_store), []
    drawn = ring(900)
    chosen = kept.add(store, "demo", drawn.image, drawn.lesion.astype(np.uint8)).choice
    for engine in (TritonClient(start_triton(pair).settings), OnnxRuntime(pair)):
        monkeypatch.setattr(support, "_known", {})
        model = engine.model(Stage.SEGMENT, ModelChoice(name=PAIR[0]))
        known = support.prototypes(chosen, model, engine, store)
        found.append(engine.infer(model, {"IMAGE": ring(901).image, "PROTOTYPES": known}, ("LESION",))["LESION"])
        engine.close()
    np.testing.assert_array_equal(*found)
