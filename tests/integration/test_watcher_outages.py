"""Watching while something breaks: writes, the store, Redis, a watcher that stands still, a damaged part."""

import threading
from itertools import product

import pytest
from orchestra import Orchestra
from watched import KEYS, LEASE, batches, entries, events, packed, rule, uri

from dermbatch import layout
from dermbatch.errors import StoreUnavailable
from dermbatch.records.asked import BatchSummary
from dermbatch.store import ObjectStore
from orchestrator.planning.intake.intake import Intake
from orchestrator.steering import controls
from orchestrator.watching.taking import gathering
from tests.waiting import wait_for


class Failing(ObjectStore):
    """The same store; its conditional writes fail from the one with this number on, for a while."""

    def __init__(self, settings, fails_at, times=1, after=False):
        super().__init__(settings)
        self.fails_at, self.times, self.after, self.writes = fails_at, times, after, 0

    def put_if_match(self, key, *args):
        self.writes += 1
        if self.fails_at <= self.writes < self.fails_at + self.times:
            if self.after:
                super().put_if_match(key, *args)
            raise StoreUnavailable("the object store is gone")
        return super().put_if_match(key, *args)


def test_wherever_writing_breaks_off_each_image_of_an_archive_is_taken_in_once(watched, monkeypatch):
    monkeypatch.setattr(gathering, "_WRITTEN_EVERY", 0.0)
    monkeypatch.setattr("orchestrator.watching.watcher._PAUSE_AFTER_ERROR", 0.01)
    wanted = []
    for fails_at, after in product((1, 2, 3, 4, 12), (False, True)):
        folder = f"{fails_at}-{after}".lower()
        names = [f"{n}.jpg" for n in range(8)]
        watched.put(f"{folder}/a.zip", packed(*names), image=b"")
        watched.put(f"{folder}/b.jpg")
        wanted += [*(f"{folder}/a.zip/{name}" for name in names), f"{folder}/b.jpg"]
        store = Failing(watched.settings.store, fails_at, after=after)
        with watched.running(rule(f"rule-{folder}", f"{folder}/"), store=store):
            watched.has(*wanted)
        assert store.writes > fails_at
    for batch in batches(watched.store):
        found = entries(watched.store, batch)
        assert len({entry.source for entry in found}) == len(found) == 9
        for entry in found:  # each entry's object is the one that it names
            if ".zip/" in entry.name:
                bucket, _, key = entry.source.removeprefix("s3://").partition("/")
                assert watched.store.get(bucket, key).endswith(entry.name.rpartition("/")[2].encode())


def test_parts_fill_up_and_follow_each_other(watched, monkeypatch):
    monkeypatch.setattr(gathering, "_WRITTEN_EVERY", 0.0)
    monkeypatch.setattr(layout, "PART_SIZE", 5)
    for number in range(13):
        watched.put(f"in/{number:02d}.jpg")
        if number % 5 == 4:  # also where a part has just become full
            watched.once()
    watched.put("in/x.zip", packed(*(f"{n}.jpg" for n in range(12))), image=b"")
    watched.once()
    assert len(watched.taken) == sum(watched.taken.values()) == 25
    (batch,) = batches(watched.store)
    assert batch.images == 25


def test_an_outage_of_the_store_is_waited_out(watched, monkeypatch):
    monkeypatch.setattr("orchestrator.watching.watcher._PAUSE_AFTER_ERROR", 0.01)
    gone = [False]

    class Away(ObjectStore):
        def _ask(self):
            if gone[0]:
                raise StoreUnavailable("the object store is gone")

        def list(self, *args, **more):
            self._ask()
            return super().list(*args, **more)

        def stat(self, *args):
            self._ask()
            return super().stat(*args)

        def read(self, *args, **more):
            self._ask()
            return super().read(*args, **more)

        def put_if_match(self, *args):
            self._ask()
            return super().put_if_match(*args)

    with watched.running(store=Away(watched.settings.store)) as watcher:
        watched.put("a.jpg")
        watched.has("a.jpg")
        gone[0] = True
        watched.put("b.jpg")
        watcher.hear(events("b.jpg"))
        wait_for(lambda: watcher._memory is None)
        watcher.hear(events("a.jpg"))
        gone[0] = False
        watched.has("a.jpg", "b.jpg")


def test_an_object_that_brings_a_defect_out_keeps_no_other_waiting(watched, monkeypatch):
    monkeypatch.setattr("orchestrator.watching.watcher._PAUSE_AFTER_ERROR", 0.01)
    real = Intake.objects

    def broken(self, uri, infos):
        for item in real(self, uri, infos):
            if item.name.endswith("in/007.jpg"):
                raise ZeroDivisionError
            yield item

    monkeypatch.setattr(Intake, "objects", broken)
    for key in KEYS[:20]:
        watched.put(key)
    others = [key for key in KEYS[:20] if key != "in/007.jpg"]
    with watched.running():
        watched.has(*others)
        watched.put("in/later.jpg")
        watched.has(*others, "in/later.jpg")


def test_a_flushed_redis_costs_nothing(watched, empty_redis, empty_store):
    orchestra = Orchestra(empty_redis, empty_store)
    try:
        with watched.running():
            watched.put("a.jpg")
            watched.has("a.jpg")
            orchestra.client.flushall()
            watched.put("b.jpg")
            watched.has("a.jpg", "b.jpg")
        orchestra.reconcile()
        assert sorted(job.source for job in orchestra.work_off()) == [uri("a.jpg"), uri("b.jpg")]
    finally:
        orchestra.end()


def test_a_cancelled_batch_gives_way_to_another(watched, empty_redis, empty_store):
    orchestra = Orchestra(empty_redis, empty_store)
    try:
        with watched.running():
            watched.put("a.jpg")
            watched.has("a.jpg")
            (first,) = batches(watched.store)
            wait_for(lambda: watched.ledger.batches.get(first.name).images)
            controls.cancel(watched.store, watched.ledger, first.name)
            orchestra.close()
            watched.put("b.jpg")
            watched.has("a.jpg", "b.jpg")
        assert [batch.name for batch in batches(watched.store)] == [first.name, f"{first.name}-2"]
        assert {job.source for job in orchestra.work_off()} == {uri("b.jpg")}
        summary = BatchSummary.model_validate_json(orchestra.key(layout.summary(first.name)))
        assert (summary.state, summary.images) == ("cancelled", 1)
    finally:
        orchestra.end()


class Stopping(ObjectStore):
    """The same store; writes of manifests wait until they are let go."""

    def __init__(self, settings, held, free):
        super().__init__(settings)
        self.held, self.free = held, free

    def put_if_match(self, key, *args):
        if "/manifest/" in key:
            self.held.set()
            assert self.free.wait(60)
        return super().put_if_match(key, *args)


@pytest.mark.parametrize("begun", [False, True])
def test_a_watcher_that_stood_still_cannot_write_over_what_its_successor_wrote(watched, monkeypatch, begun):
    if begun:
        watched.put("in/zero.jpg")
        watched.once()
    held, free = threading.Event(), threading.Event()
    watched.put("in/a.jpg")
    late = Stopping(watched.settings.store, held, free)
    with watched.running(store=late) as stopped:
        assert held.wait(30)
        stopped._lead._ending.set()  # no thread of a stopped process renews anything
        with watched.running() as successor:
            wait_for(successor._lead.held, LEASE + 10)
            watched.has(*(["in/zero.jpg"] if begun else []), "in/a.jpg")
            free.set()
            wait_for(lambda: stopped._memory is None)
            watched.put("in/b.jpg")
            watched.has(*(["in/zero.jpg"] if begun else []), "in/a.jpg", "in/b.jpg")
    (batch,) = batches(watched.store)
    part = watched.store.get(watched.store.bucket, layout.manifest_part(batch.name, "000000"))
    assert len(part.rstrip().splitlines()) == batch.images


def test_a_deleted_or_damaged_part_stops_watching_until_it_is_mended(watched, monkeypatch):
    monkeypatch.setattr("orchestrator.watching.watcher._PAUSE_AFTER_ERROR", 0.01)
    watched.put("a.jpg")
    watched.once()
    (batch,) = batches(watched.store)
    key = layout.manifest_part(batch.name, "000000")
    whole = watched.store.get(watched.store.bucket, key)
    watched.store.put(key, whole[:20], "application/x-ndjson")
    watched.put("b.jpg")
    with watched.running() as watcher:
        wait_for(watcher._lead.held)
        watched.store.put(key, whole, "application/x-ndjson")
        watched.has("a.jpg", "b.jpg")
