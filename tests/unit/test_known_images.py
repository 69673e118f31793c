"""What is known of an image is not computed again, and nothing else is taken for it."""

import hashlib

import cv2
import numpy as np
import pytest
from processed import BODY, SHA256, Place
from standins import whole_triton

from dermbatch import layout
from dermbatch.errors import PermanentError
from dermbatch.settings import WorkerSettings
from dermbatch.stages import ORDER, Stage
from workers.image import known


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


def test_stages_added_later_find_the_earlier_ones(place):
    place.run((Stage.PURIFY,))
    assert place.run((Stage.PURIFY, Stage.SEGMENT)).cached == (Stage.PURIFY,)
    assert place.run().cached == (Stage.PURIFY, Stage.SEGMENT)


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
