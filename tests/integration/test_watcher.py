"""Watching on real servers: what is taken in, when, and how often."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from orchestra import Orchestra
from watched import BUCKET, KEYS, batches, entries, events, packed, rule, uri

from dermbatch import layout
from dermbatch.records.asked import BatchSummary
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from tests.waiting import wait_for


def test_what_is_there_and_what_comes_is_taken_in_once_and_processed(watched, empty_redis, empty_store):
    orchestra = Orchestra(empty_redis, empty_store)
    try:
        for key in KEYS[:20]:
            watched.put(key)
        with watched.running() as watcher:
            watched.has(*KEYS[:20])
            for key in KEYS[20:]:
                watched.put(key)
            watcher.hear(events(*KEYS, *KEYS[10:], "in/never.jpg"))
            watched.has(*KEYS)
            jobs = orchestra.work_off()
        assert sorted(job.source for job in jobs) == [uri(key) for key in KEYS]
        (batch,) = batches(watched.store)
        state = watched.ledger.batches.get(batch.name)
        assert (state.done, state.growing, state.rule, state.lane) == (40, True, "all", "live")
    finally:
        orchestra.end()


def test_a_restart_takes_nothing_in_again(watched):
    for _ in range(3):
        for key in KEYS:
            watched.put(key)
        watched.once()
        watched.has(*KEYS)
    (batch,) = batches(watched.store)
    assert batch.images == 40


def test_a_notification_is_enough(quiet):
    with quiet.running() as watcher:
        quiet.put("in/first.jpg")
        watcher.hear(events("in/first.jpg"))
        quiet.has("in/first.jpg")
        quiet.put("in/second.jpg")
        watcher.hear(events("in/second.jpg", "in/first.jpg"))
        quiet.has("in/first.jpg", "in/second.jpg")


def test_the_same_content_again_is_not_taken_and_other_content_is(watched):
    for body, images in ((b"1", 1), (b"1", 1), (b"2", 2), (b"2", 2), (b"1", 2)):
        watched.put("in/a.jpg", body)
        watched.once()
        assert watched.taken == {uri("in/a.jpg"): images}


def test_in_a_store_with_one_etag_for_all_other_content_is_taken_and_nothing_twice(watched):
    class Constant(ObjectStore):
        written = 0

        def list(self, bucket, prefix, **more):
            at = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=self.written)
            for info in super().list(bucket, prefix, **more):
                ours = bucket != BUCKET
                yield info if ours else replace(info, etag="d41d8cd98f00b204e9800998ecf8427e", modified=at)

    store = Constant(watched.settings.store)
    for body, images in ((b"1", 1), (b"2", 2), (None, 2), (b"3", 3)):
        if body is not None:
            watched.put("in/a.jpg", body)
            store.written += 1
        watched.once(store=store)
        assert watched.taken == {uri("in/a.jpg"): images}


def test_in_such_a_store_what_is_written_again_at_once_is_taken_too(watched):
    """By then another second has begun: objects that share an ETag are not looked at in the one they are of."""

    class Constant(ObjectStore):
        def list(self, bucket, prefix, **more):
            for info in super().list(bucket, prefix, **more):
                at = info.modified.replace(microsecond=0)
                yield replace(info, etag="same", modified=at) if bucket == BUCKET else info

    store = Constant(watched.settings.store)
    watched.put("in/a.jpg", b"1")
    watched.put("in/b.jpg", b"2")
    watched.once(store=store)
    watched.put("in/a.jpg", b"3")
    watched.once(store=store)
    assert watched.taken == {uri("in/a.jpg"): 2, uri("in/b.jpg"): 1}


def test_what_is_no_input_is_passed_over(watched):
    for name in ("a.jpg.tmp", "b.part", "c.PARTIAL", "d.filepart", ".e.jpg", "folder/"):
        watched.put(f"in/{name}")
    watched.put("in/empty.jpg", b"", image=b"")
    watched.put("in/notes.txt", b"words", image=b"")
    watched.put("in/whole.jpg")
    watched.put("in/picture")  # known by its content
    watched.once()
    assert watched.taken == {uri("in/whole.jpg"): 1, uri("in/picture"): 1}


def test_what_is_taken_and_what_is_no_image_costs_no_requests_of_its_own(watched):
    counted = Counter()

    class Counting(ObjectStore):
        def head(self, bucket, key, length):
            counted["head"] += 1
            return super().head(bucket, key, length)

        def stat(self, bucket, key):
            counted["stat"] += 1
            return super().stat(bucket, key)

        def list(self, bucket, prefix, **more):
            counted[f"list {bucket}"] += 1
            return super().list(bucket, prefix, **more)

    for key in (*(key.removesuffix(".jpg") for key in KEYS), "in/notes.txt"):
        watched.put(key, image=b"\xff\xd8\xff" if "notes" not in key else b"no image ")
    with watched.running(store=Counting(watched.settings.store)):
        wait_for(lambda: counted[f"list {BUCKET}"] >= 4)
    assert (counted["head"], counted["stat"]) == (41, 0)


def test_an_object_that_goes_before_it_is_taken_in_is_no_error(quiet):
    with quiet.running() as watcher:
        watcher.hear(events("in/gone.jpg"))
        quiet.put("in/there.jpg")
        watcher.hear(events("in/there.jpg"))
        quiet.has("in/there.jpg")


def test_an_archive_that_goes_while_it_is_read_leaves_nothing(watched):
    class Deleting(ObjectStore):
        def download(self, bucket, key, path):
            self.delete(key, bucket=bucket)
            super().download(bucket, key, path)

    watched.put("in/a.zip", packed("1.jpg"), image=b"")
    watched.put("in/b.jpg")
    watched.once(store=Deleting(watched.settings.store))
    assert watched.taken == {uri("in/b.jpg"): 1}


def test_objects_wait_until_they_have_settled(quiet):
    settling = rule(settle=2.0)
    quiet.put("in/a.jpg")
    quiet.once(settling)
    assert quiet.taken == {}
    with quiet.running(settling) as watcher:
        quiet.put("in/a.jpg", b"other")
        watcher.hear(events("in/a.jpg"))
        written = quiet.store.stat(BUCKET, "in/a.jpg").modified
        quiet.has("in/a.jpg")
        assert (datetime.now(UTC) - written).total_seconds() >= 2


def test_objects_wait_for_their_marker_and_later_ones_for_it_to_be_written_again(quiet):
    marked = rule(marker="READY")
    quiet.put("study/1/a.jpg")
    quiet.put("study/2/a.jpg")
    with quiet.running(marked) as watcher:
        watcher.hear(events("study/1/a.jpg", "study/2/a.jpg"))
        quiet.put("study/1/READY", b"", image=b"x")
        watcher.hear(events("study/1/READY"))
        quiet.has("study/1/a.jpg")
        wait_for(
            lambda: datetime.now(UTC) > quiet.store.stat(BUCKET, "study/1/READY").modified + timedelta(seconds=1)
        )
        quiet.put("study/1/b.jpg")
        watcher.hear(events("study/1/b.jpg", "study/1/READY"))
        quiet.put("study/2/READY", b"", image=b"x")
        watcher.hear(events("study/2/READY"))
        quiet.has("study/1/a.jpg", "study/2/a.jpg")
        quiet.put("study/READY", b"", image=b"x")  # above counts as well
        watcher.hear(events("study/READY"))
        quiet.has("study/1/a.jpg", "study/1/b.jpg", "study/2/a.jpg")


def test_a_marker_outside_of_the_prefix_is_none(watched):
    watched.put("READY", b"", image=b"x")
    watched.put("study/a.jpg")
    watched.once(rule(prefix="study/", marker="READY"))
    assert watched.taken == {}
    watched.put("study/READY", b"", image=b"x")
    watched.once(rule(prefix="study/", marker="READY"))
    assert watched.taken == {uri("study/a.jpg"): 1}


def test_each_rule_has_its_own_batch_with_its_lane_stages_and_models(watched):
    for key in ("clinic/a.jpg", "clinic/b.png", "study/a.jpg"):
        watched.put(key)
    watched.once(
        rule("urgent", "clinic/", include=["*.jpg"], stages=["segment"], batches="hourly"),
        rule("study", "study/", lane="bulk", weight=7, models={"segment": "other@3"}, dicom=True),
    )
    urgent, study = sorted(batches(watched.store), key=lambda batch: batch.rule, reverse=True)
    assert (urgent.order.lane, urgent.order.stages, [entry.name for entry in entries(watched.store, urgent)]) == (
        "live", (Stage.SEGMENT,), [uri("clinic/a.jpg")])  # fmt: skip
    asked = study.order
    assert (asked.lane, asked.weight, asked.dicom, asked.models[Stage.SEGMENT].version) == ("bulk", 7, True, "3")
    assert study.name == f"watch-study-{datetime.now(UTC):%Y%m%d}"
    assert urgent.until - datetime.now(UTC) <= timedelta(hours=1)


def test_a_rule_that_asks_for_something_else_begins_another_batch(watched):
    watched.put("a.jpg")
    watched.once(rule())
    watched.put("b.jpg")
    watched.once(rule(stages=["purify"]))
    first, second = batches(watched.store)
    assert (second.name, second.order.stages) == (f"{first.name}-2", (Stage.PURIFY,))
    assert (first.growing, second.growing, first.images, second.images) == (False, True, 1, 1)


class Clock:
    def __init__(self):
        self.now = datetime(2026, 11, 21, 14, 59, tzinfo=UTC)

    def __call__(self):
        return self.now


@pytest.mark.parametrize("restarted", [False, True])
def test_a_batch_ends_with_its_hour_though_nothing_comes_any_more(watched, empty_redis, empty_store, restarted):
    clock, hourly = Clock(), rule(batches="hourly")
    orchestra = Orchestra(empty_redis, empty_store)
    try:
        watched.put("a.jpg")
        if restarted:
            watched.once(hourly, clock=clock)
            clock.now += timedelta(days=2)
        with watched.running(hourly, clock=clock):
            watched.has("a.jpg")
            orchestra.work_off()
            clock.now += timedelta(minutes=2)
            name = "watch-all-20261121-14"
            wait_for(lambda: not watched.ledger.batches.get(name).growing)
            orchestra.close()
            summary = BatchSummary.model_validate_json(orchestra.key(layout.summary(name)))
            assert (summary.done, summary.images) == (1, 1)
            watched.put("b.jpg")
            watched.has("a.jpg", "b.jpg")
            assert {batch.name for batch in batches(watched.store) if batch.growing} == {
                f"watch-all-{clock.now:%Y%m%d-%H}"
            }
    finally:
        orchestra.end()


def test_one_watcher_works_and_another_takes_its_place(watched):
    with watched.running() as second, watched.running() as first:
        wait_for(lambda: first._lead.held() or second._lead.held())
        leader, other = (first, second) if first._lead.held() else (second, first)
        assert not other._lead.held()
        assert not watched.watcher().run_once()
        for key in KEYS:
            watched.put(key)
        watched.has(*KEYS)
        leader.stop()
        wait_for(other._lead.held)
        watched.put("in/more.jpg")
        watched.has(*KEYS, "in/more.jpg")


def test_what_a_follower_hears_the_leader_looks_at(quiet):
    with quiet.running() as leader:
        wait_for(lambda: leader._looked)
        with quiet.running() as follower:
            quiet.put("in/a.jpg")
            follower.hear(events("in/a.jpg"))
            quiet.has("in/a.jpg")
            assert not follower._lead.held()
