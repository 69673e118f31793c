import hashlib
import threading

import cv2
import numpy as np
import pytest
from standins import Store, classify_by_area, skin_with_lesion, whole_triton

from dermbatch import layout
from dermbatch.errors import BadInput, InferenceUnavailable, ModelContractError, ObjectNotFound
from dermbatch.records import ImageJob, ModelChoice, StageRecord
from dermbatch.settings import WorkerSettings
from dermbatch.stages import ORDER, Stage
from workers import png
from workers.pipeline import process

IMAGE = skin_with_lesion(300, 400, radius=80, hair=True)
BODY = bytes(cv2.imencode(".png", cv2.cvtColor(IMAGE, cv2.COLOR_RGB2BGR))[1])
SHA256 = hashlib.sha256(BODY).hexdigest()
CHOICES = {stage: ModelChoice(name=stage.value) for stage in Stage}


class Place:
    """A store with one image, and all that processing it takes."""

    def __init__(self, triton=None, body=BODY):
        self.store = Store()
        self.store.objects["incoming", "a.png"] = body
        self.triton = triton or whole_triton()
        self.looked = 0

    def alive(self):
        self.looked += 1

    def run(self, stages=ORDER, *, models=CHOICES, uri="s3://incoming/a.png", batch="b", alive=None, limits=None):
        self.store.requests.clear()
        self.triton.asked.clear()
        job = ImageJob(batch=batch, index=7, name="a.png", source=uri, stages=stages, models=models)
        return process(
            job,
            store=self.store,
            client=self.triton,
            limits=limits or WorkerSettings(),
            attempt=1,
            worker="w",
            alive=alive or self.alive,
        )

    def asked(self):
        return list(dict.fromkeys(name for name, _ in self.triton.asked))

    def picture(self, record, stage, name):
        return png.decode(self.store.objects["results", record.stages[stage].artifacts[name]])


@pytest.fixture
def place():
    return Place()


def test_an_image_goes_through_all_stages(place):
    record = place.run()
    assert list(record.stages) == list(ORDER)
    assert record.cached == ()
    assert (record.source.height, record.source.width, record.source.media_type) == (300, 400, "image/png")
    assert (record.source.sha256, record.source.bytes) == (SHA256, len(BODY))
    assert record.source.uri == "s3://incoming/a.png"
    assert set(record.seconds) == {"read", "decode", "purify", "segment", "enhance", "classify", "write"}
    assert record.started <= record.finished
    assert (record.batch, record.index, record.attempt, record.worker) == ("b", 7, 1, "w")
    mask = place.picture(record, Stage.SEGMENT, "mask.png")
    assert mask.shape == (300, 400)
    assert record.stages[Stage.SEGMENT].output.lesion.area_px == np.count_nonzero(mask)
    purified = place.picture(record, Stage.PURIFY, "purified.png")
    assert (purified[IMAGE[..., 1] != 250] == IMAGE[IMAGE[..., 1] != 250]).all()
    enhanced = place.picture(record, Stage.ENHANCE, "enhanced.png")
    output = record.stages[Stage.ENHANCE].output
    assert enhanced.shape == (output.height, output.width, 3)
    assert record.stages[Stage.CLASSIFY].output.label == "nevus"
    assert place.looked >= len(ORDER) + 1


def test_what_lies_in_the_store_has_the_documented_layout(place):
    record = place.run()
    keys = {stage: found.key for stage, found in record.stages.items()}
    files = {
        Stage.PURIFY: {"purified.png"},
        Stage.SEGMENT: {"mask.png"},
        Stage.ENHANCE: {"enhanced.png"},
        Stage.CLASSIFY: {"embedding.npy", "saliency.png"},
    }
    expected = {
        layout.artifact(SHA256, stage, keys[stage], name)
        for stage in Stage
        for name in files[stage] | {"stage.json"}
    }
    assert set(place.store.keys("^images/")) == expected | {record.preview}
    for stage in Stage:
        written = place.store.objects["results", layout.artifact(SHA256, stage, keys[stage], "stage.json")]
        alone = StageRecord.model_validate_json(written)
        assert alone.image.sha256 == SHA256
        assert alone.model_copy(update={"image": None}) == record.stages[stage]


def test_stage_json_comes_after_its_artifacts(place):
    record = place.run()
    written = [key for what, key in place.store.requests if what == "put"]
    for found in record.stages.values():
        last = written.index(layout.artifact(SHA256, found.stage, found.key, "stage.json"))
        assert all(written.index(key) < last for key in found.artifacts.values())


def test_a_second_run_computes_decodes_and_writes_nothing(place):
    first = place.run()
    again = place.run(batch="other", uri="s3://incoming/a.png", limits=WorkerSettings(max_pixels=1))
    assert again.cached == ORDER
    assert again.stages == first.stages
    assert again.flags == first.flags
    assert again.preview == first.preview
    assert again.source == first.source
    assert "decode" not in again.seconds
    assert place.asked() == []
    assert [what for what, _ in place.store.requests if what == "put"] == []


def test_the_same_content_elsewhere_is_known(place):
    place.run()
    place.store.objects["archive", "x/y.jpg"] = BODY
    again = place.run(uri="s3://archive/x/y.jpg")
    assert again.cached == ORDER
    assert again.source.uri == "s3://archive/x/y.jpg"


@pytest.mark.parametrize(
    ("changed", "cached"),
    [
        ("classify", (Stage.PURIFY, Stage.SEGMENT, Stage.ENHANCE)),
        ("enhance", (Stage.PURIFY, Stage.SEGMENT, Stage.CLASSIFY)),
        ("segment", (Stage.PURIFY,)),
        ("purify", ()),
    ],
)
def test_a_new_model_recomputes_its_stage_and_what_depends_on_it(changed, cached):
    place = Place()
    first = place.run()
    place.triton.models = whole_triton(**{changed: "cd" * 32}).models
    again = place.run()
    assert again.cached == cached
    assert set(place.asked()) == {stage.value for stage in ORDER if stage not in cached}
    # Read back or made just now: what later stages are fed is the same, and so is what they give.
    for stage in ORDER:
        assert again.stages[stage].output == first.stages[stage].output
        assert (again.stages[stage].key == first.stages[stage].key) is (stage in cached)


def test_a_stage_brings_those_it_requires_and_no_others(place):
    record = place.run((Stage.CLASSIFY,))
    assert list(record.stages) == [Stage.SEGMENT, Stage.CLASSIFY]
    assert record.stages[Stage.CLASSIFY].fed_by == {Stage.SEGMENT: record.stages[Stage.SEGMENT].key}
    whole = place.run()
    assert whole.stages[Stage.SEGMENT].key != record.stages[Stage.SEGMENT].key  # it was fed a purified image


def test_stages_added_later_find_the_earlier_ones(place):
    place.run((Stage.PURIFY,))
    assert place.run((Stage.PURIFY, Stage.SEGMENT)).cached == (Stage.PURIFY,)
    assert place.run().cached == (Stage.PURIFY, Stage.SEGMENT)


@pytest.mark.parametrize("name", ["purified.png", "mask.png", "stage.json"])
def test_what_an_attempt_that_broke_off_left_is_not_taken_for_whole(place, name):
    first = place.run()
    for key in place.store.keys(f"{name}$|preview"):
        del place.store.objects["results", key]
    again = place.run()
    assert len(again.cached) < len(ORDER)
    assert again.stages.keys() == first.stages.keys()
    assert {stage: found.output for stage, found in again.stages.items()} == {
        stage: found.output for stage, found in first.stages.items()
    }


def test_an_unreadable_artifact_is_made_anew(place):
    first = place.run()
    purified = first.stages[Stage.PURIFY].artifacts["purified.png"]
    place.store.objects["results", purified] = b"torn"
    place.triton.models = whole_triton(segment="cd" * 32).models
    again = place.run()
    assert again.cached == ()
    assert png.decode(place.store.objects["results", purified]).shape == IMAGE.shape


def test_a_record_of_another_release_is_not_taken(place):
    record = place.run()
    key = layout.artifact(SHA256, Stage.CLASSIFY, record.stages[Stage.CLASSIFY].key, "stage.json")
    place.store.objects["results", key] = b'{"stage":"classify","novelty":1}'
    assert place.run().cached == (Stage.PURIFY, Stage.SEGMENT, Stage.ENHANCE)


def test_no_lesion_is_a_result_too():
    body = bytes(cv2.imencode(".png", np.full((60, 80, 3), 200, np.uint8))[1])
    record = Place(body=body).run()
    assert record.flags[0] == "no_lesion"
    assert record.stages[Stage.ENHANCE].artifacts == {}
    assert record.stages[Stage.ENHANCE].output.method == "none"


def test_bad_input_is_one_clear_failure():
    with pytest.raises(BadInput) as caught:
        Place(body=b"just a text").run()
    assert caught.value.reason == "not_an_image"
    with pytest.raises(BadInput) as caught:
        Place().run(limits=WorkerSettings(max_pixels=1000))
    assert caught.value.reason == "too_large"
    with pytest.raises(ObjectNotFound):
        Place().run(uri="s3://incoming/none.png")


def test_a_job_without_a_model_for_a_stage_is_told(place):
    with pytest.raises(ModelContractError, match="no model for segment"):
        place.run((Stage.CLASSIFY,), models={Stage.CLASSIFY: CHOICES[Stage.CLASSIFY]})


def test_a_lost_lease_ends_the_work_between_stages(place):
    class Lost(Exception):
        pass

    calls = iter([None, None, Lost()])

    def alive():
        if (error := next(calls)) is not None:
            raise error

    with pytest.raises(Lost):
        place.run(alive=alive)
    assert place.asked() == ["purify", "segment"]
    assert threading.active_count() < 20


def test_what_was_done_before_an_outage_is_not_done_again(place):
    def down(**_):
        raise InferenceUnavailable("gone")

    place.triton.functions["classify"] = down
    with pytest.raises(InferenceUnavailable):
        place.run()
    place.triton.functions["classify"] = classify_by_area
    assert place.run().cached == (Stage.PURIFY, Stage.SEGMENT, Stage.ENHANCE)


def test_a_failed_write_fails_the_image(place):
    class Full(Exception):
        pass

    def put(key, body, content_type, *, bucket=None):
        if key.endswith("mask.png"):
            raise Full

    place.store.put = put
    with pytest.raises(Full):
        place.run()
