"""An image on its way through the stages: what comes out, and what ends it."""

import hashlib
import threading

import cv2
import numpy as np
import pytest
from processed import BODY, CHOICES, IMAGE, SHA256, Place
from standins import classify_by_area

from dermbatch import layout
from dermbatch.errors import BadInput, InferenceUnavailable, ModelContractError, ObjectNotFound, StoreUnavailable
from dermbatch.settings import WorkerSettings
from dermbatch.stages import ORDER, Stage
from tests import corpus


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
    keys = {stage: found.key for stage, found in place.run().stages.items()}
    files = {Stage.SEGMENT: "mask.png", Stage.ENHANCE: "enhanced.png"}
    pictures = {layout.artifact(SHA256, stage, keys[stage], name) for stage, name in files.items()}
    assert set(place.store.keys("^images/")) == pictures | {layout.known(layout.content(SHA256))}


def test_a_stage_brings_those_it_requires_and_no_others(place):
    record = place.run((Stage.CLASSIFY,))
    assert list(record.stages) == [Stage.SEGMENT, Stage.CLASSIFY]
    assert record.stages[Stage.CLASSIFY].fed_by == {Stage.SEGMENT: record.stages[Stage.SEGMENT].key}
    whole = place.run()
    assert whole.stages[Stage.SEGMENT].key != record.stages[Stage.SEGMENT].key  # it was fed a purified image


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


def test_a_store_that_is_gone_is_not_asked_again_to_keep_what_was_done(place):
    put = place.store.put

    def refuse(key, body, content_type, *, bucket=None):
        if key.endswith("mask.png"):
            raise StoreUnavailable("gone")
        return put(key, body, content_type, bucket=bucket)

    place.store.put = refuse
    with pytest.raises(StoreUnavailable):
        place.run()
    assert place.store.keys("^images/known/") == []


def test_each_frame_of_a_file_is_an_image_of_its_own():
    body = corpus.frames(corpus.DRAWN.image, corpus.DRAWN.image[::-1])
    place = Place(body=body)
    digest = hashlib.sha256(body).hexdigest()
    records = [place.run(job=place.job([Stage.PURIFY]).model_copy(update={"frame": frame})) for frame in (1, 2)]
    assert [record.source.frame for record in records] == [1, 2]
    assert [record.source.sha256 for record in records] == [
        hashlib.sha256(f"{digest}#frame={frame}".encode()).hexdigest() for frame in (1, 2)
    ]
    assert [record.cached for record in records] == [(), ()]
    first, second = (place.picture(record, Stage.PURIFY, "purified.png") for record in records)
    assert (first == second[::-1]).all()
    again = place.run(job=place.job([Stage.PURIFY]).model_copy(update={"frame": 2}))
    assert again.cached == (Stage.PURIFY,)
    assert again.source == records[1].source
