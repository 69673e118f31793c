"""What the store keeps of an image: pictures whole or as differences, small files in the record; damage."""

import hashlib
import io
from dataclasses import replace

import cv2
import numpy as np
import pytest
from processed import IMAGE, SHA256, Place
from standins import classify_by_area, whole_triton

from dermbatch import layout, pictures
from dermbatch.errors import ArtifactDamaged
from dermbatch.images import png
from dermbatch.pictures import digest, read_whole
from dermbatch.settings import WorkerSettings
from dermbatch.stages import ORDER, Stage
from tests import corpus


@pytest.fixture
def whole():
    """One whose purified pictures are kept in full, as all were."""
    return Place(limits=WorkerSettings(whole_pictures=True))


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


@pytest.mark.parametrize("name", ["purified.png", "mask.png"])
def test_an_artifact_that_was_deleted_is_made_again_where_it_is_needed(whole, name):
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


def test_an_unreadable_artifact_is_made_again(whole):
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
def test_a_damaged_artifact_alone_is_made_again_by_the_next_run(whole, name, damage):
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
def test_an_artifact_changed_in_place_is_made_again_where_files_are_checked(whole, name):
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
