import hashlib
import io
import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest
from standins import Store, classify_by_area, skin_with_lesion, whole_triton

from dermbatch import layout, pictures
from dermbatch.errors import (
    ArtifactDamaged,
    BadInput,
    InferenceUnavailable,
    ModelContractError,
    ObjectNotFound,
    PermanentError,
    StoreUnavailable,
)
from dermbatch.images import png
from dermbatch.pictures import digest, read_whole
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.records.outcome import KnownImage
from dermbatch.settings import WorkerSettings
from dermbatch.stages import ORDER, Stage
from tests import corpus
from workers.image import known
from workers.process.journey import process

IMAGE = skin_with_lesion(300, 400, radius=80, hair=True)
BODY = bytes(cv2.imencode(".png", cv2.cvtColor(IMAGE, cv2.COLOR_RGB2BGR))[1])
SHA256 = hashlib.sha256(BODY).hexdigest()
CHOICES = {stage: ModelChoice(name=stage.value) for stage in Stage}


class Place:
    """A store with one image, and all that processing it takes."""

    def __init__(self, triton=None, body=BODY, limits=None):
        self.limits = limits or WorkerSettings()
        self.store = Store()
        self.store.objects["incoming", "a.png"] = body
        self.triton = triton or whole_triton()
        self.looked = 0

    def alive(self):
        self.looked += 1

    def job(
        self, stages=ORDER, *, models=CHOICES, uri="s3://incoming/a.png", batch="b", listed=True, uploaded=True
    ):
        """A job as planning makes it, of an object that it uploaded, or that it listed, or that nobody listed."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        there = listed and (bucket, key) in self.store.objects
        return ImageJob(
            batch=batch,
            index=7,
            name="a.png",
            source=uri,
            order=Order(stages=stages, models=models),
            size=len(self.store.objects[bucket, key]) if there else None,
            etag=self.store.etag(bucket, key) if there else None,
            sha256=hashlib.sha256(self.store.objects[bucket, key]).hexdigest() if there and uploaded else None,
        )

    def run(self, stages=ORDER, *, job=None, alive=None, limits=None, attempt=1, **asked):
        job = job or self.job(stages, **asked)
        self.store.requests.clear()
        self.triton.asked.clear()
        return process(
            job,
            store=self.store,
            client=self.triton,
            limits=limits or self.limits,
            attempt=attempt,
            worker="w",
            alive=alive or self.alive,
        )

    def read(self):
        return KnownImage.model_validate_json(self.store.objects["results", self.known()])

    def known(self):
        (key,) = self.store.keys("^images/known/")
        return key

    def asked(self):
        return list(dict.fromkeys(name for name, _ in self.triton.asked))

    def picture(self, record, stage, name):
        if name in record.stages[stage].differences:
            return png.decode(read_whole(self.store, record.source, record.stages[stage], name))
        return png.decode(self.store.objects["results", record.stages[stage].artifacts[name]])


@pytest.fixture
def place():
    return Place()


@pytest.fixture
def whole():
    """One whose purified pictures are kept whole, as all were."""
    return Place(limits=WorkerSettings(whole_pictures=True))


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


def test_whole_pictures_lie_in_the_store_beside_the_others(whole):
    record = whole.run()
    keys = {stage: found.key for stage, found in record.stages.items()}
    files = {Stage.PURIFY: "purified.png", Stage.SEGMENT: "mask.png", Stage.ENHANCE: "enhanced.png"}
    pictures = {layout.artifact(SHA256, stage, keys[stage], name) for stage, name in files.items()}
    assert set(whole.store.keys("^images/")) == pictures | {layout.known(layout.content(SHA256))}
    assert record.stages[Stage.PURIFY].differences == {}


def test_a_purified_picture_is_kept_as_what_differs_and_named_as_ever(place, whole):
    record, before = place.run(), whole.run()
    stage, old = record.stages[Stage.PURIFY], before.stages[Stage.PURIFY]
    assert stage.artifacts == old.artifacts
    assert (stage.inline, stage.written) == ({}, {})
    kept, body = stage.differences["purified.png"], whole.store.objects["results", old.artifacts["purified.png"]]
    assert len(kept.body) == kept.written.bytes < len(body) / 10
    assert read_whole(place.store, record.source, stage, "purified.png") == body  # to the byte
    assert kept.pixels == digest(png.decode(body))


def test_differences_too_large_for_the_record_are_an_object(place, monkeypatch):
    monkeypatch.setattr("workers.image.artifacts._INLINE_MOST", 30)
    record = place.run()
    kept = record.stages[Stage.PURIFY].differences["purified.png"]
    key = layout.artifact(SHA256, Stage.PURIFY, record.stages[Stage.PURIFY].key, "purified.diff")
    assert (kept.key, kept.body) == (key, None)
    assert len(place.store.objects["results", key]) == kept.written.bytes
    whole = place.picture(record, Stage.PURIFY, "purified.png")
    assert place.run().cached == ORDER
    place.store.objects["results", key] = place.store.objects["results", key][:-1]
    again = place.run()
    assert again.cached == (Stage.SEGMENT, Stage.ENHANCE, Stage.CLASSIFY)
    np.testing.assert_array_equal(place.picture(again, Stage.PURIFY, "purified.png"), whole)
    place.store.objects["results", key] = b"x" * kept.written.bytes
    assert place.run(limits=WorkerSettings(check_files=True)).cached == again.cached


def test_what_has_little_in_common_with_its_source_is_kept_whole():
    triton = whole_triton()
    triton.functions["purify"] = (
        lambda IMAGE: {  # noqa: N803
            "PURIFIED": 255 - IMAGE,
            "OCCLUSION": np.full(IMAGE.shape[:2], 255, np.uint8),
        }
    )
    place = Place(triton)
    record = place.run()
    assert record.stages[Stage.PURIFY].differences == {}
    np.testing.assert_array_equal(place.picture(record, Stage.PURIFY, "purified.png"), 255 - IMAGE)


def test_a_frame_of_many_keeps_its_picture_whole(place):
    job = place.job().model_copy(update={"frame": 1})
    place.store.objects["incoming", "a.png"] = corpus.frames(corpus.DRAWN.image, corpus.DRAWN.image[:, ::-1])
    record = place.run(job=job.model_copy(update={"sha256": None}))
    assert record.stages[Stage.PURIFY].differences == {}


def test_a_new_segmentation_works_on_the_picture_as_it_was(place):
    first = place.run()
    before = next(item["IMAGE"] for name, item in place.triton.asked if name == "segment")
    place.triton.models = whole_triton(segment="cd" * 32).models
    again = place.run()
    assert again.cached == (Stage.PURIFY,)
    assert again.stages[Stage.PURIFY] == first.stages[Stage.PURIFY]
    after = next(item["IMAGE"] for name, item in place.triton.asked if name == "segment")
    np.testing.assert_array_equal(before, after)
    assert ("get", "a.png") in place.store.requests


def test_pixels_that_a_decoder_gives_otherwise_than_then_are_not_passed_off(place, monkeypatch):
    record = place.run()
    read = pictures.read_image
    other = {"pixels": IMAGE[::-1].copy()}
    monkeypatch.setattr(pictures, "read_image", lambda *a, **k: replace(read(*a, **k), **other))
    with pytest.raises(ArtifactDamaged, match="other pixels"):
        read_whole(place.store, record.source, record.stages[Stage.PURIFY], "purified.png")


def test_small_files_are_in_the_record(place):
    record = place.run()
    classified = record.stages[Stage.CLASSIFY]
    assert set(classified.artifacts) == set(classified.inline) == {"embedding.npy", "saliency.png"}
    embedding = np.load(io.BytesIO(classified.inline["embedding.npy"]))
    assert hashlib.sha256(embedding.tobytes()).hexdigest() == classified.output.embedding_sha256
    assert png.decode(classified.inline["saliency.png"]).ndim == 2
    assert all(not record.stages[stage].inline for stage in ORDER[:3])
    assert record.preview == layout.preview(SHA256, record.preview.split("/")[3])
    assert record.preview_jpeg.startswith(b"\xff\xd8")


def test_a_large_map_is_no_part_of_the_record(place):
    def noisy(**inputs):
        saliency = np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8)  # noise does not compress
        return classify_by_area(**inputs) | {"SALIENCY": saliency}

    place.triton.functions["classify"] = noisy
    record = place.run()
    assert set(record.stages[Stage.CLASSIFY].inline) == {"embedding.npy"}
    assert place.picture(record, Stage.CLASSIFY, "saliency.png").shape == (300, 300)


def test_what_is_known_is_written_after_the_artifacts_that_it_names(place):
    record = place.run()
    assert [key for what, key in place.store.requests if what == "put"][-1] == place.known()
    remembered = place.read()
    assert remembered.image.sha256 == SHA256
    assert {found.stage: found for found in remembered.stages.values()} == record.stages
    assert list(remembered.previews.values()) == [record.preview_jpeg]


def test_requests_of_a_first_run_and_of_a_second(place):
    place.run()
    assert [what for what, _ in place.store.requests] == ["get", "get", "put", "put", "put"]
    place.run(batch="other")
    assert place.store.requests == [("get", place.known()), ("list", layout.artifacts(SHA256))]


def test_where_nothing_was_known_of_any_image_nobody_is_asked_until_an_attempt_broke_off(place):
    job = place.job(ORDER).model_copy(update={"known": False})
    place.run(job=job)
    assert [what for what, _ in place.store.requests] == ["get", "put", "put", "put"]
    assert place.run(job=job, attempt=2).cached == ORDER
    assert place.store.requests[0] == ("get", place.known())


def test_requests_of_an_object_where_it_lies_with_and_without_a_checksum_of_the_store(place):
    place.run(uploaded=False)
    assert [what for what, _ in place.store.requests] == ["get", "get", "put", "put", "put"]
    first = [("get", "a.png"), ("get", place.known()), ("list", layout.artifacts(SHA256))]
    place.store.sent.clear()
    assert place.run(uploaded=False).cached == ORDER
    assert place.store.requests == first
    assert place.store.sent == [("incoming", "a.png")]  # the bytes say which image it is
    place.store.sent.clear()
    place.store.vouches = True
    assert place.run(uploaded=False).cached == ORDER
    assert place.store.requests == first
    assert place.store.sent == []


@pytest.mark.parametrize("etag", ["d41d8cd98f00b204e9800998ecf8427e", "", None, "abc-3"])
@pytest.mark.parametrize("vouches", [False, True])
def test_etags_that_say_nothing_mix_no_images_up(place, monkeypatch, etag, vouches):
    other = bytearray(BODY)
    other[-1] ^= 1  # of the last chunk's check, which nobody looks at: another file of the same size
    place.store.objects["incoming", "b.png"] = bytes(other)
    place.store.vouches = vouches
    monkeypatch.setattr(place.store, "etag", lambda bucket, key: etag)
    first = place.run(uploaded=False)
    second = place.run(uri="s3://incoming/b.png", uploaded=False)
    assert (first.source.sha256, second.source.sha256) == (SHA256, hashlib.sha256(other).hexdigest())
    assert second.cached == ()
    job = place.job(uploaded=False)
    place.store.objects["incoming", "a.png"] = bytes(other)  # replaced since, by one of the same size and ETag
    assert place.run(job=job).source.sha256 == second.source.sha256


def test_a_second_run_computes_reads_and_writes_nothing(place):
    first = place.run()
    again = place.run(batch="other", limits=WorkerSettings(max_pixels=1, max_bytes=1))
    assert again.cached == ORDER
    for same in ("stages", "flags", "preview", "preview_jpeg", "source"):
        assert getattr(again, same) == getattr(first, same)
    assert set(again.seconds) == {"read"}
    assert place.asked() == []


def test_with_whole_pictures_a_new_segmentation_needs_no_source(whole):
    first = whole.run()
    whole.triton.models = whole_triton(segment="cd" * 32).models
    job = whole.job()
    del whole.store.objects["incoming", "a.png"]
    again = whole.run(job=job, limits=WorkerSettings(max_pixels=1, whole_pictures=True))
    assert again.cached == (Stage.PURIFY,)
    asked = ["get", "list", "get", "put", "put", "put"]  # known, what is there, purified
    assert [what for what, _ in whole.store.requests] == asked
    assert set(again.seconds) == {"read", "segment", "enhance", "classify", "write"}
    assert again.preview != first.preview
    old, new = (cv2.imdecode(np.frombuffer(r.preview_jpeg, np.uint8), 1).astype(int) for r in (first, again))
    assert np.abs(old - new).mean() < 1  # the same picture, compressed twice
    assert again.source == first.source


def test_without_purified_pictures_a_new_segmentation_reads_the_source(place):
    place.run((Stage.SEGMENT,))
    place.triton.models = whole_triton(segment="cd" * 32).models
    again = place.run((Stage.SEGMENT,))
    assert ("get", "a.png") in place.store.requests
    assert set(again.seconds) == {"read", "decode", "segment", "write"}


def test_an_unreadable_earlier_preview_is_drawn_from_the_source(place):
    place.run()
    remembered = place.read()
    torn = remembered.model_copy(update={"previews": {"ab" * 16: b"torn"}})
    place.store.objects["results", place.known()] = torn.to_json()
    again = place.run()
    assert again.cached == ORDER
    assert ("get", "a.png") in place.store.requests
    assert again.preview_jpeg.startswith(b"\xff\xd8")


def test_the_same_content_elsewhere_is_known(place):
    place.run()
    place.store.objects["archive", "x/y.jpg"] = BODY
    again = place.run(uri="s3://archive/x/y.jpg")
    assert again.cached == ORDER
    assert again.source.uri == "s3://archive/x/y.jpg"
    assert ("get", "x/y.jpg") not in place.store.requests


def test_an_object_that_was_not_listed_is_read_and_then_known(place):
    first = place.run(listed=False)
    assert place.run().stages == first.stages
    assert place.run(listed=False).cached == ORDER
    asked = [("get", "a.png"), ("get", place.known()), ("list", layout.artifacts(SHA256))]
    assert place.store.requests == asked


def test_a_store_without_etags_is_as_good(place, monkeypatch):
    first = place.run()
    monkeypatch.setattr(place.store, "etag", lambda bucket, key: None)
    again = place.run()
    assert (again.cached, again.stages) == (ORDER, first.stages)
    assert place.run(uploaded=False).cached == ORDER


def test_an_object_replaced_since_it_was_listed_is_remembered_as_what_it_is_now(place):
    job = place.job()
    other = bytes(cv2.imencode(".png", np.full((60, 80, 3), 200, np.uint8))[1])
    place.store.objects["incoming", "a.png"] = other
    assert place.run(job=job).source.sha256 == hashlib.sha256(other).hexdigest()
    place.store.objects["incoming", "a.png"] = BODY
    assert place.run(job=job).source.sha256 == SHA256  # not what lay there in between


def test_an_object_replaced_since_it_was_listed_is_a_new_image_once_it_must_be_read(place):
    place.run()
    job = place.job()
    other = bytes(cv2.imencode(".png", np.full((60, 80, 3), 200, np.uint8))[1])
    place.store.objects["incoming", "a.png"] = other
    assert place.run(job=job).source.sha256 == SHA256  # of which all is known
    place.triton.models = whole_triton(purify="cd" * 32).models
    again = place.run(job=job)
    assert (again.cached, again.source.sha256) == ((), hashlib.sha256(other).hexdigest())
    assert len(place.store.keys("^images/known/")) == 2


def test_what_is_known_of_other_bytes_is_not_taken(place):
    place.run()
    known_of_other = place.read()
    other = known_of_other.model_copy(
        update={"image": known_of_other.image.model_copy(update={"sha256": "ab" * 32}), "previews": {}}
    )
    place.store.objects["results", place.known()] = other.to_json()
    again = place.run()
    assert (again.cached, again.source.sha256) == ((), SHA256)


def test_of_many_models_the_oldest_are_forgotten(place, monkeypatch):
    monkeypatch.setattr(known, "_PREVIEWS_MOST", 3)
    monkeypatch.setattr(known, "_STAGES_MOST", 12)
    for n in range(5):
        place.triton.models = whole_triton(classify=f"{n:02d}" * 32).models
        record = place.run()
    remembered = place.read()
    assert len(remembered.previews) == known._PREVIEWS_MOST
    assert list(remembered.previews)[-1] == record.preview.split("/")[3]
    for n in range(15):
        place.triton.models = whole_triton(segment=f"{n:02d}" * 32).models
        record = place.run()
        assert record.cached in ((Stage.PURIFY,), ORDER)  # what is in use stays, however old it is
    remembered = place.read()
    assert len(remembered.stages) == known._STAGES_MOST
    assert {found.key for found in record.stages.values()} <= set(remembered.stages)


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


@pytest.mark.parametrize("name", ["purified.png", "mask.png"])
def test_an_artifact_that_was_deleted_is_made_anew_where_it_is_needed(whole, name):
    first = whole.run()
    (gone,) = whole.store.keys(name)
    del whole.store.objects["results", gone]
    whole.triton.models = whole_triton(enhance="cd" * 32).models
    again = whole.run()
    made = {Stage.ENHANCE, next(stage for stage in ORDER if gone in first.stages[stage].artifacts.values())}
    assert again.cached == tuple(stage for stage in ORDER if stage not in made)
    assert whole.store.keys(name) == [gone]
    assert {stage: found.output for stage, found in again.stages.items()} == {
        stage: found.output for stage, found in first.stages.items()
    }


def test_an_unreadable_artifact_is_made_anew(whole):
    first = whole.run()
    purified = first.stages[Stage.PURIFY].artifacts["purified.png"]
    whole.store.objects["results", purified] = b"torn"
    whole.triton.models = whole_triton(segment="cd" * 32).models
    again = whole.run()
    made = {Stage.PURIFY, Stage.SEGMENT, Stage.ENHANCE, Stage.CLASSIFY}  # all but purify for the other model
    assert set(again.cached) == set(ORDER) - made
    assert png.decode(whole.store.objects["results", purified]).shape == IMAGE.shape


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "longer"])
@pytest.mark.parametrize("name", ["purified.png", "mask.png", "enhanced.png"])
def test_a_damaged_artifact_alone_is_made_anew_by_the_next_run(whole, name, damage):
    first = whole.run()
    (key,) = whole.store.keys(name)
    good = whole.store.objects.pop(("results", key))
    bad = {"empty": b"", "cut": good[:-7], "longer": good + b"x"}
    if damage != "gone":
        whole.store.objects["results", key] = bad[damage]
    again = whole.run()
    assert len(again.cached) == len(ORDER) - 1
    assert whole.store.objects["results", key] == good
    assert again.stages.keys() == first.stages.keys()
    assert whole.run().cached == ORDER


@pytest.mark.parametrize("name", ["purified.png", "mask.png", "enhanced.png"])
def test_an_artifact_changed_in_place_is_made_anew_where_files_are_checked(whole, name):
    whole.run()
    (key,) = whole.store.keys(name)
    good = whole.store.objects["results", key]
    whole.store.objects["results", key] = good[:-1] + b"x"
    checking = WorkerSettings(check_files=True, whole_pictures=True)
    assert len(whole.run(limits=checking).cached) == len(ORDER) - 1
    assert whole.store.objects["results", key] == good
    assert whole.run(limits=checking).cached == ORDER
    assert [what for what, _ in whole.store.requests] == ["get", "get", "get", "get"]


def test_an_artifact_changed_in_place_is_noticed_where_it_is_used(whole):
    whole.run()
    (key,) = whole.store.keys("purified.png")
    good = whole.store.objects["results", key]
    whole.store.objects["results", key] = good[:-1] + b"x"  # as long, and still a picture
    whole.triton.models = whole_triton(segment="cd" * 32).models
    assert whole.run().cached == ()
    assert whole.store.objects["results", key] == good


@pytest.mark.parametrize("damage", [b'{"novelty":1}', b"", b"\x00torn"])
def test_what_another_release_or_a_broken_disk_left_is_not_taken(place, damage):
    place.run()
    place.store.objects["results", place.known()] = damage
    assert place.run().cached == ()
    assert place.run().cached == ORDER


def test_a_bucket_that_hides_what_is_not_there_costs_only_the_cache(place):
    read = place.store.read

    def hide(bucket, key, *, max_bytes=None):
        if key.startswith("images/known/") and (bucket, key) not in place.store.objects:
            raise PermanentError("refused", reason="access_denied")  # S3's answer where listing is not allowed
        return read(bucket, key, max_bytes=max_bytes)

    place.store.read = hide
    assert place.run().cached == ()
    assert place.run().cached == ORDER


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


def test_tenants_share_neither_what_is_known_nor_files_unless_an_operator_says_so(place):
    jobs = {
        who: place.job().model_copy(update={"batch": who, "order": place.job().order.model_copy(update=options)})
        for who, options in {
            "a": {"tenant": "a"},
            "b": {"tenant": "b"},
            "c": {"tenant": "c", "shares": "a"},
            "d": {"tenant": "d", "shares": "default"},
        }.items()
    }
    first = place.run(job=jobs["a"])
    assert all(
        key.startswith("tenants/a/images/") for stage in first.stages.values() for key in stage.artifacts.values()
    )
    assert layout.pool_of(first.preview) == "a"
    assert place.store.keys("^images/") == []
    before = place.store.objects.copy()
    other = place.run(job=jobs["b"])
    assert other.cached == ()
    assert not [key for _, key in place.store.requests if key.startswith("tenants/a/")]
    assert {at: body for at, body in place.store.objects.items() if at in before} == before
    assert set(place.run(job=jobs["c"]).cached) == set(ORDER)
    place.run(job=jobs["d"])
    assert place.known() == layout.known(layout.content(SHA256))
