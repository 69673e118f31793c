"""Intake and planner on a real store: pages, kills at any point, archives, filters, duplicates, damage."""

import hashlib
import io
import json
import os
import tracemalloc
import zipfile
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, PermanentError, StoreRefused, StoreUnavailable, UsageError
from dermbatch.phantoms.samples import dicom
from dermbatch.records.asked import BatchControl, Filters, ModelChoice, Order, PlanRecord, Position
from dermbatch.settings import Settings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import read_batch, read_manifest_part
from orchestrator.planning.intake.candidates import Candidate, LeftOut, Skipped
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.planner import abandon, plan
from tests import corpus

MODELS = {Stage.SEGMENT: ModelChoice(name="m")}
PNG = b"\x89PNG\r\n\x1a\n"


class Killed(BaseException):
    """As SIGKILL: nothing of the planner's runs afterwards."""


class Mortal(ObjectStore):
    """A store whose client is killed at a write: before it took effect, or after."""

    def __init__(self, settings, writes=None, *, before=True):
        super().__init__(settings)
        self.left, self.before = writes, before

    def _put(self, bucket, key, body, content_type, conditions):
        if self.left is None:
            return super()._put(bucket, key, body, content_type, conditions)
        if self.left <= 0 and self.before:
            raise Killed
        answer = super()._put(bucket, key, body, content_type, conditions)
        if self.left <= 0:
            raise Killed
        self.left -= 1
        return answer


@pytest.fixture
def store(empty_store):
    return ObjectStore(empty_store)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(layout, "PART_SIZE", 4)


def order(**more):
    return Order(models=MODELS, stages=(Stage.SEGMENT,), **more)


def there(count):
    return [Candidate(f"x{n}", uri=f"s3://bucket/x{n}", size=1, etag=f"{n:032x}") for n in range(count)]


def packed(*members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, body in members:
            archive.writestr(name, body)
    return file.getvalue()


def entries(store, batch):
    record = read_batch(store, batch)
    parts = [layout.part_of(first)[0] for first in range(0, record.images, layout.PART_SIZE)]
    return [e for part in parts for e in read_manifest_part(store, batch, part, images=record.images)]


def objects(store):
    return sorted(
        (bucket, info.key, info.etag, info.modified)
        for bucket in (store.bucket, store.incoming_bucket)
        for info in store.list(bucket, "")
    )


def control(store, batch):
    return BatchControl.model_validate_json(store.get(store.bucket, layout.control(batch)))


# Kills


@pytest.fixture
def mixed_inputs(store, tmp_path):
    """A folder, a prefix and an archive: 22 images, 4 other files; archives within both."""
    folder = tmp_path / "scan"
    (folder / "a" / "deep").mkdir(parents=True)
    for name in ("z.png", "a/1.png", "a/deep/2.png", "a/ä 100%.png"):
        (folder / name).write_bytes(PNG + name.encode())
    (folder / "a" / "notes.txt").write_text("text")
    members = [(f"m{n}.png", PNG + bytes([n])) for n in range(6)]
    (folder / "a" / "set.zip").write_bytes(packed(*members, ("readme", b"text"), ("../evil.png", PNG)))
    for key in ("p/a.png", "p/c.png", "p/dicom.1.2", "p/y/z.jpg"):
        store.put(key, PNG + key.encode(), "image/png", bucket="incoming")
    store.put("p/notes.txt", b"text", "text/plain", bucket="incoming")
    store.put("p/b.zip", packed(*members[:3], ("same.png", members[0][1])), "application/zip", bucket="incoming")
    store.put("p/bad.zip", b"PK no archive", "application/zip", bucket="incoming")
    (tmp_path / "last.zip").write_bytes(
        packed(("one.png", PNG + b"1"), ("no image", b"-"), ("two.png", PNG + b"2"))
    )
    return [str(folder), "s3://incoming/p/", str(tmp_path / "last.zip")]


def without_sources(found, name):
    return [entry.model_dump() | {"source": (entry.source or "").replace(f"{name}/", "/")} for entry in found]


def test_a_planner_killed_anywhere_goes_on_to_the_same_manifest(store, empty_store, mixed_inputs, small_parts):
    def walk():
        return Intake(Settings(), store, in_place=True).walk(mixed_inputs)

    whole = plan("whole", order(), walk(), store)
    assert (whole.images, whole.skipped) == (22, 4)
    wanted = without_sources(entries(store, "whole"), "whole")
    assert sum(entry["duplicate_of"] is not None for entry in wanted) == whole.duplicates == 4
    runs = iter(range(10_000))

    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(kills=st.lists(st.tuples(st.integers(0, 32), st.booleans()), min_size=1, max_size=4))
    def killed_and_gone_on(kills):
        name = f"run{next(runs)}"
        for writes, before in kills:
            try:
                plan(name, order(), walk(), Mortal(empty_store, writes, before=before))
            except Killed:
                continue
            except UsageError:  # the kill came after the very last write
                assert read_batch(store, name)
            break
        try:
            batch = plan(name, order(), walk(), store)
        except UsageError:
            batch = read_batch(store, name)
        same = {"images", "skipped", "left_out", "duplicates", "order"}
        assert batch.model_dump(include=same) == whole.model_dump(include=same)
        assert without_sources(entries(store, name), name) == wanted
        for entry in entries(store, name):
            if entry.source and f"{name}/" in entry.source:
                assert store.get("incoming", f"{name}/{entry.index}").startswith(PNG)

    killed_and_gone_on()


def test_every_position_of_a_walk_is_one_to_go_on_from(store, mixed_inputs):
    walk = Intake(Settings(), store, in_place=True).walk(mixed_inputs)
    everything = [(type(item), item.name, item.position) for item in walk]
    for number, (_, _, position) in enumerate(everything):
        kept = Position.model_validate_json(position.to_json())
        assert [(type(item), item.name, item.position) for item in walk.begin(kept)] == everything[number + 1 :]


def test_files_that_workers_can_read_themselves_are_not_uploaded(store, mixed_inputs):
    folder, _, archive = mixed_inputs
    batch = plan("b", order(), Intake(Settings(), None, in_place=False, local=True).walk([folder, archive]), store)
    found = entries(store, "b")
    uploaded = {info.key for info in store.list("incoming", "b/")}
    in_place = [entry for entry in found if entry.source and entry.source.startswith("file:///")]
    assert (
        len(found) == batch.images == len(in_place) + len(uploaded) + sum(one.refusal is not None for one in found)
    )
    for entry in in_place:
        body = Path(os.fsdecode(unquote_to_bytes(entry.source.removeprefix("file://")))).read_bytes()
        assert entry.sha256 == hashlib.sha256(body).hexdigest()
    assert {entry.name.rpartition("/")[2] for entry in in_place} == {"z.png", "1.png", "2.png", "ä 100%.png"}
    copied = plan("copied", order(), Intake(Settings(), None, in_place=False).walk([folder, archive]), store)
    same = {"name", "sha256", "duplicate_of", "refusal", "size"}
    assert [one.model_dump(include=same) for one in found] == [
        one.model_dump(include=same) for one in entries(store, "copied")
    ]
    assert batch.duplicates == copied.duplicates


def test_what_an_archive_has_unpacked_counts_after_a_kill_too(store, tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(packed(*((f"{n}.png", bytes(1000)) for n in range(5))))
    limited = Settings()
    limited = limited.model_copy(update={"archive": limited.archive.model_copy(update={"max_bytes": 2500})})
    walk = Intake(limited, None, in_place=False).walk([str(path)])
    reasons = [item.refusal and item.refusal.reason for item in walk]
    assert reasons == [None, None, "zip_bomb", "zip_bomb", "zip_bomb"]
    first = next(iter(walk))
    assert [item.refusal and item.refusal.reason for item in walk.begin(first.position)] == reasons[1:]


def test_an_archive_that_was_taken_in_part_and_is_gone_is_passed_over(store):
    for key in ("p/a.png", "p/b.zip", "p/c.png"):
        body = packed(("1.png", PNG), ("2.png", PNG)) if key.endswith("zip") else PNG
        store.put(key, body, "x", bucket="incoming")
    walk = Intake(Settings(), store, in_place=True).walk(["s3://incoming/p/"])
    inside = list(walk)[1].position
    assert inside.taken == 1
    store.delete("p/b.zip", bucket="incoming")
    assert [item.name for item in walk.begin(inside)] == ["s3://incoming/p/c.png"]


def test_a_plan_is_gone_on_with_only_as_it_was_begun(store, empty_store, small_parts):
    store.put("p/a.png", PNG, "x", bucket="incoming")
    prefix = "s3://incoming/p/"
    intake = Intake(Settings(), store, in_place=True)
    with pytest.raises(Killed):
        plan("b", order(), intake.walk([prefix]), Mortal(empty_store, 2))
    with pytest.raises(UsageError, match="begun with other inputs"):
        plan("b", order(), intake.walk([prefix, prefix]), store)
    with pytest.raises(UsageError, match="begun with other filters"):
        plan(
            "b",
            order(),
            Intake(Settings(), store, in_place=True, filters=Filters(include=("*",))).walk([prefix]),
            store,
        )
    with pytest.raises(UsageError, match=r"begun with other stages and models.*--batch"):
        plan(
            "b",
            Order(models={Stage.PURIFY: ModelChoice(name="p")}, stages=(Stage.PURIFY,)),
            intake.walk([prefix]),
            store,
        )
    with pytest.raises(ObjectNotFound):
        read_batch(store, "b")
    control_key = layout.control("b")
    paused = control(store, "b").model_copy(update={"state": "paused", "why": "by hand"})
    store.put(control_key, paused.to_json(), "application/json")
    assert plan("b", order(lane="live", weight=7), intake.walk([prefix]), store).order.lane == "live"
    assert control(store, "b") == BatchControl(lane="live", weight=7, state="paused", why="by hand")


def test_a_batch_says_whether_anything_was_known_when_it_was_planned(store):
    candidates = [Candidate(name="a.png", read=lambda: PNG)]
    assert not plan("one", Order(models=MODELS), candidates, store).known
    store.put(layout.known("0" * 32), b"{}", "application/json")
    assert plan("two", Order(models=MODELS), candidates, store).known


def test_the_control_is_there_before_the_batch(store, empty_store):
    with pytest.raises(Killed):
        plan("b", order(weight=3), there(2), Mortal(empty_store, 3))
    assert control(store, "b") == BatchControl(weight=3)
    with pytest.raises(ObjectNotFound):
        read_batch(store, "b")
    begun = PlanRecord.model_validate_json(store.get(store.bucket, layout.plan_record("b")))
    assert begun.images == 0
    batch = plan("b", order(weight=3), there(2), store)
    assert (batch.images, batch.order.weight, batch.created) == (2, 3, begun.created)


def test_candidates_in_a_list_are_gone_on_with_by_their_number(store, empty_store, small_parts):
    items = [*there(5), Skipped("no image"), *there(6)]
    with pytest.raises(Killed):
        plan("b", order(), items, Mortal(empty_store, 4))
    batch = plan("b", order(), items, store)
    assert (batch.images, batch.skipped, batch.duplicates) == (11, 1, 5)
    assert [entry.index for entry in entries(store, "b")] == list(range(11))


def test_a_plan_that_is_abandoned_begins_anew_and_a_batch_is_not_abandoned(store, empty_store, small_parts):
    with pytest.raises(Killed):
        plan("b", order(), there(6), Mortal(empty_store, 4))
    abandon(store, "b")
    assert not list(store.list(store.bucket, layout.OPEN))
    plan("b", order(), [Candidate("other", uri="s3://bucket/other", size=2)], store)
    abandon(store, "b")
    assert [entry.name for entry in entries(store, "b")] == ["other"]
    assert control(store, "b") == BatchControl()


def test_a_plan_of_nothing_leaves_nothing(store):
    with pytest.raises(UsageError, match=r"no image among the inputs \(1 other files, 1 left out by filters\)"):
        plan("b", order(), [Skipped("a"), LeftOut("b")], store)
    assert objects(store) == []


def test_a_store_that_fails_in_the_middle_of_a_listing_ends_the_plan(store, monkeypatch, small_parts):
    for n in range(6):
        store.put(f"p/{n}.png", PNG + bytes([n]), "x", bucket="incoming")
    real = ObjectStore.list

    def failing(self, bucket, prefix, *, start_after=""):
        yield from islice(real(self, bucket, prefix, start_after=start_after), 1)
        if bucket == store.bucket:
            return
        raise StoreUnavailable("the object store did not list: 503")

    walk = Intake(Settings(), store, in_place=True).walk(["s3://incoming/p/"])
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "list", failing)
        with pytest.raises(StoreUnavailable):
            plan("b", order(), walk, store)
    assert plan("b", order(), walk, store).images == 6


def test_a_bucket_that_may_not_be_written_is_said_and_mended(store, monkeypatch):
    def denied(model, **_):
        if model.name == "PutObject":
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")

    store._client.meta.events.register("before-call.s3", denied)
    with pytest.raises(StoreRefused, match=r"refuses to put in s3://dermbatch: AccessDenied"):
        plan("b", order(), there(1), store)
    store._client.meta.events.unregister("before-call.s3", denied)
    assert plan("b", order(), there(1), store).images == 1


# Prefixes


def test_a_prefix_of_several_pages_is_planned_whole(store, s3_client):
    from concurrent.futures import ThreadPoolExecutor

    keys = [f"p/{n:04d}.png" for n in range(2100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.put(key, key.encode(), "x", bucket="incoming"), keys))
    batch = plan("b", order(), Intake(Settings(), store, in_place=True).walk(["s3://incoming/p/"]), store)
    found = entries(store, "b")
    assert batch.images == 2100
    assert [entry.source for entry in found] == [f"s3://incoming/{key}" for key in keys]
    head = s3_client.head_object(Bucket="incoming", Key=keys[7])
    assert (found[7].etag, found[7].size) == (head["ETag"].strip('"'), head["ContentLength"])


def test_an_object_that_is_gone_before_it_is_looked_into_is_one_failure(store, monkeypatch):
    for key in ("p/1.2.840", "p/a.png"):
        store.put(key, PNG, "x", bucket="incoming")
    real = ObjectStore.head

    def head(self, bucket, key, length):
        self.delete(key, bucket=bucket)
        return real(self, bucket, key, length)

    monkeypatch.setattr(ObjectStore, "head", head)
    gone, kept = Intake(Settings(), store, in_place=True).walk(["s3://incoming/p/"])
    assert gone.refusal.reason == "object_not_found"
    assert kept.uri == "s3://incoming/p/a.png"


def test_objects_go_by_their_names_where_these_tell_and_else_by_content(store, monkeypatch):
    """Sidecars by names alone, archives as files are; a DICOMDIR is one like others where the user gave it."""
    packed_up, directory = packed(("in.png", PNG)), corpus.dicomdir(("A",))
    bodies = {"._a.png": b"x", "1.2": PNG, "DICOMDIR": directory, "a.png": b"x", "empty.1": b"", "folder/": b""}
    bodies |= {"large.1": PNG + bytes(2000), "old.1": PNG, "packed": packed_up, "text": b"text"}
    for key, body in bodies.items():
        store.put(f"p/{key}", body, "x", bucket="incoming")
    heads = []
    real = ObjectStore.head
    monkeypatch.setattr(ObjectStore, "head", lambda self, *args: heads.append(args[1]) or real(self, *args))
    limited = Settings()
    limited = limited.model_copy(update={"worker": limited.worker.model_copy(update={"max_bytes": 2000})})
    intake = Intake(limited, store, in_place=True, filters=Filters(exclude=("old*",)))
    found = {item.name.removeprefix("s3://incoming/p/"): item for item in intake.walk(["s3://incoming/p/"])}
    kinds = {key: type(item).__name__ for key, item in found.items()}
    expected = dict.fromkeys(bodies.keys() - {"packed"}, "Skipped") | {"old.1": "LeftOut"}
    assert kinds == expected | dict.fromkeys(("1.2", "a.png", "packed/in.png"), "Candidate")
    assert [found[key].why for key in ("._a.png", "folder/", "text")] == ["sidecar", "sidecar", "no_image"]
    assert sorted(heads) == ["p/1.2", "p/DICOMDIR", "p/packed", "p/text"]
    (item,) = intake.walk(["s3://incoming/p/packed"])
    assert item.name == "s3://incoming/p/packed/in.png"
    (item,) = intake.walk(["s3://incoming/p/._a.png"])
    assert (item.uri, item.refusal) == ("s3://incoming/p/._a.png", None)
    (item,) = intake.walk(["s3://incoming/p/DICOMDIR"])  # of which the files are not there
    assert (item.uri, item.refusal.reason) == (None, "unreadable")
    for key in ("text", "empty.1"):
        (item,) = intake.walk([f"s3://incoming/p/{key}"])
        assert (item.uri, item.refusal, item.frame) == (f"s3://incoming/p/{key}", None, None)
    (item,) = intake.walk(["s3://incoming/p/large.1"])
    assert item.refusal.reason == "too_large"


def test_what_can_never_be_listed_is_a_failure_and_the_rest_goes_on(store):
    store.put("p/a.png", PNG, "x", bucket="incoming")
    inputs = ["s3://incoming/none/", "s3://no-such-bucket/p", "s3://incoming/p/a.png"]
    walk = Intake(Settings(), store, in_place=True).walk(inputs)
    found = list(walk)
    assert [item.refusal and item.refusal.reason for item in found] == ["empty_prefix", "bucket_not_found", None]
    for number, item in enumerate(found):
        assert [after.name for after in walk.begin(item.position)] == [after.name for after in found[number + 1 :]]


def test_memory_does_not_grow_with_the_batch(store, monkeypatch):
    """Parts are written while candidates still come, and nothing of them is kept."""
    written = []
    monkeypatch.setattr(ObjectStore, "put", lambda self, key, *args, **kwargs: written.append(key))
    begun = []

    def candidates(count):
        for n in range(count):
            begun.append(len(written)) if n % 1000 == 500 else None
            yield Candidate(f"name {n}", uri=f"s3://bucket/{n}", size=n, etag=f"{n:032x}")

    def peak(name, count):
        tracemalloc.start()
        plan(name, order(), candidates(count), store)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few = peak("few", 3_000)
    begun.clear()
    many = peak("many", 12_000)
    assert begun == sorted(begun)
    assert len(set(begun)) == 12
    assert many < few * 1.2


# Filters


@pytest.fixture
def dated(tmp_path):
    import os

    folder = tmp_path / "scan"
    folder.mkdir()
    for name, day in (("old.png", 1), ("new.png", 20), ("new.txt", 20)):
        (folder / name).write_bytes(PNG if name.endswith("png") else b"text")
        os.utime(folder / name, (time := datetime(2026, 3, day, tzinfo=UTC).timestamp(), time))
    (folder / "set.zip").write_bytes(packed(("a/1.png", PNG), ("a/2.jpg", PNG), ("b/3.png", PNG)))
    os.utime(folder / "set.zip", (time, time))
    return folder


def taken(inputs, source=None, **filters):
    intake = Intake(Settings(), source, in_place=True, filters=Filters(**filters))
    found = list(intake.walk([str(given) for given in inputs]))
    kinds = {
        kind: [i.name.rpartition("scan/")[2] for i in found if isinstance(i, kind)]
        for kind in (Candidate, LeftOut)
    }
    return kinds[Candidate], kinds[LeftOut]


def test_globs_take_what_they_match_below_the_input(dated):
    members = [f"set.zip/{name}" for name in ("a/1.png", "a/2.jpg", "b/3.png")]
    assert taken([dated], include=("*.png",)) == (
        ["new.png", "old.png", members[0], members[2]],
        ["new.txt", members[1]],
    )
    assert taken([dated], include=("set.zip",)) == (members, ["new.png", "new.txt", "old.png"])
    assert taken([dated], exclude=("set.zip/a/*", "old*")) == (
        ["new.png", members[2]],
        ["old.png", *members[:2]],
    )
    assert taken([dated], exclude=("*.zip",)) == (["new.png", "old.png"], ["set.zip"])
    assert taken([dated], include=("*.PNG",))[0] == []
    assert taken([dated / "old.png"], include=("nothing",)) == (["old.png"], [])
    assert taken([dated / "set.zip"], include=("b/*",))[0] == ["set.zip/b/3.png"]


def test_times_take_what_was_modified_from_since_until_before(dated):
    assert taken([dated], since=datetime(2026, 3, 20, tzinfo=UTC), include=("*.png",))[0] == [
        "new.png",
        "set.zip/a/1.png",
        "set.zip/b/3.png",
    ]
    assert taken([dated], until=datetime(2026, 3, 20, tzinfo=UTC)) == (
        ["old.png"],
        ["new.png", "new.txt", "set.zip"],
    )
    assert taken([dated / "old.png"], since=datetime(2026, 3, 2, tzinfo=UTC)) == ([], ["old.png"])
    with pytest.raises(UsageError, match="time zone"):
        taken([dated], since=datetime(2026, 3, 2))
    with pytest.raises(UsageError, match="before --until"):
        taken([dated], since=datetime(2026, 3, 2, tzinfo=UTC), until=datetime(2026, 3, 2, tzinfo=UTC))


def test_prefixes_are_filtered_alike(store):
    for key in ("p/scan/a.png", "p/scan/b.jpg", "p/scan/set.zip"):
        store.put(key, packed(("in.png", PNG)) if key.endswith("zip") else PNG, "x", bucket="incoming")
    prefix = "s3://incoming/p"
    assert taken([prefix], store, include=("scan/*.png",)) == (["a.png", "set.zip/in.png"], ["b.jpg"])
    assert taken([prefix], store, exclude=("*.zip",)) == (["a.png", "b.jpg"], ["set.zip"])
    assert taken(["s3://incoming/p/scan/a.png"], store, include=("nothing",)) == (["a.png"], [])
    now = datetime.now(UTC)
    assert taken([prefix], store, since=now + timedelta(hours=1)) == ([], ["a.png", "b.jpg", "set.zip"])
    assert len(taken([prefix], store, since=now - timedelta(hours=1))[0]) == 3


def test_what_filters_leave_out_is_counted_by_itself(store, dated):
    intake = Intake(Settings(), None, in_place=False, filters=Filters(exclude=("old*",)))
    batch = plan("b", order(), intake.walk([str(dated)]), store)
    assert (batch.images, batch.skipped, batch.left_out) == (4, 1, 1)


# Contents


def test_copies_point_to_the_first_of_their_content(store, tmp_path):
    folder = tmp_path / "scan"
    folder.mkdir()
    for name, body in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (folder / f"{name}.png").write_bytes(PNG + body)
    store.put("p/d.png", PNG + b"1", "x", bucket="incoming")
    inputs = [str(folder), "s3://incoming/p/", str(folder / "b.png")]
    batch = plan("b", order(), Intake(Settings(), store, in_place=True).walk(inputs), store)
    assert [entry.duplicate_of for entry in entries(store, "b")] == [None, None, 0, 0, 1]
    assert batch.duplicates == 3


# Damage


FRAMES = corpus.frames(*(corpus.DRAWN.image,) * 3)


def test_a_file_of_several_frames_is_uploaded_once_and_gone_on_with_anywhere(
    store, empty_store, tmp_path, small_parts
):
    """Nine frames over three parts: killed at each write, the plan ends up with each of them once."""
    (tmp_path / "in").mkdir()
    for name in ("a.dcm", "b.dcm", "c.dcm"):
        (tmp_path / "in" / name).write_bytes(FRAMES + name.encode())

    def walk():
        return Intake(Settings(), None, in_place=False).walk([str(tmp_path / "in")])

    plan("whole", order(), walk(), store)
    whole = entries(store, "whole")
    assert [(entry.name, entry.frame) for entry in whole] == [
        (f"in/{name}.dcm#frame={frame}", frame) for name in "abc" for frame in (1, 2, 3)
    ]
    assert len({entry.source for entry in whole[:3]}) == 1
    assert len(list(store.list(store.incoming_bucket, "whole/"))) == 3
    assert [entry.duplicate_of for entry in whole] == [None] * 9
    for writes in range(12):
        name = f"killed-{writes}"
        try:
            plan(name, order(), walk(), Mortal(empty_store, writes))
        except Killed:
            plan(name, order(), walk(), store)
        assert [(e.name, e.frame, e.etag) for e in entries(store, name)] == [
            (e.name, e.frame, e.etag) for e in whole
        ]


def test_frames_of_an_object_are_found_by_its_head_and_copies_by_frame(store):
    for key in ("x/1.2.840.77", "x/b.dcm"):
        store.put(key, FRAMES, "application/octet-stream", bucket="incoming")
    store.put("x/DICOMDIR", corpus.dicomdir(("B.DCM",)), "application/octet-stream", bucket="incoming")
    walk = Intake(Settings(), store, in_place=True).walk(["s3://incoming/x"])
    batch = plan("b", order(), walk, store)
    found = entries(store, "b")
    assert [entry.name.removeprefix("s3://incoming/x/") for entry in found] == [
        f"{key}#frame={frame}" for key in ("1.2.840.77", "b.dcm") for frame in (1, 2, 3)
    ]
    assert {entry.source for entry in found} == {"s3://incoming/x/1.2.840.77", "s3://incoming/x/b.dcm"}
    assert [entry.duplicate_of for entry in found] == [None, None, None, 0, 1, 2]
    assert batch.skipped == 1
    items = list(walk)
    for number, item in enumerate(items, 1):
        assert [one.name for one in walk.begin(item.position)] == [one.name for one in items[number:]]


def test_tars_on_s3_are_unpacked_like_zips(store):
    files = {"study/IM1": FRAMES, "in.zip": corpus.zipped({"a.png": PNG})}
    store.put("x/export.tar.gz", corpus.tarred(files, "w:gz"), "application/gzip", bucket="incoming")
    plan("b", order(), Intake(Settings(), store, in_place=True).walk(["s3://incoming/x"]), store)
    assert [entry.name.removeprefix("s3://incoming/x/export.tar.gz/") for entry in entries(store, "b")] == [
        *(f"study/IM1#frame={frame}" for frame in (1, 2, 3)),
        "in.zip/a.png",
    ]


def test_the_same_uid_with_other_content_is_no_copy(store, tmp_path):
    (tmp_path / "in").mkdir()
    for name, drawn in (("a", corpus.DRAWN), ("b", corpus.OTHER), ("c", corpus.DRAWN)):
        (tmp_path / "in" / name).write_bytes(dicom(drawn, identity=5))
    plan("b", order(), Intake(Settings(), None, in_place=False).walk([str(tmp_path / "in")]), store)
    assert [entry.duplicate_of for entry in entries(store, "b")] == [None, None, 0]


@pytest.fixture
def planned(store, small_parts):
    plan("b", order(), there(10), store)
    return store


def edited(store, part, change):
    key = layout.manifest_part("b", part)
    lines = store.get(store.bucket, key).splitlines()
    store.put(key, b"".join(line + b"\n" for line in change(lines)), "application/x-ndjson")


def told(store, part="000001"):
    with pytest.raises(PermanentError) as error:
        read_manifest_part(store, "b", part, images=10)
    assert error.value.reason == "manifest_damaged"
    assert f"part {part} of the manifest of batch 'b' is damaged" in str(error.value)
    return str(error.value)


def changed(line, **values):
    return json.dumps(json.loads(line) | values).encode()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda ls: [ls[0], ls[1][:-9], *ls[2:]], "at line 2: it is no such record"),
        (lambda ls: [ls[0], changed(ls[1], size="a patient's name"), *ls[2:]], "at line 2: size: int_parsing"),
        (lambda ls: [ls[0], changed(ls[1], sise=1), *ls[2:]], "at line 2: sise: extra_forbidden"),
        (lambda ls: [ls[0], ls[2], ls[1], ls[3]], "at line 2: it has index 6 where 5 belongs"),
        (lambda ls: [*ls[:2], *ls[1:]], "at line 3: it has index 5 where 6 belongs"),
        (lambda ls: ls[:2], "at line 3: it has 2 lines instead of 4"),
        (lambda ls: [*ls, changed(ls[3], index=8)], "at line 5: it has 5 lines instead of 4"),
        (lambda ls: [ls[0], b"", *ls[1:]], "at line 2: it is no such record"),
        (lambda ls: [], "at line 1: it has 0 lines instead of 4"),
        (lambda ls: [changed(ls[0], duplicate_of=4), *ls[1:]], "at line 1: duplicate_of is 4"),
    ],
)
def test_a_part_edited_by_hand_is_said_with_its_line(planned, change, sentence):
    edited(planned, "000001", change)
    assert sentence in told(planned)
    assert "patient" not in told(planned)


def test_a_part_that_is_missing_and_a_record_that_is_none_are_said(planned):
    planned.delete(layout.manifest_part("b", "000002"))
    assert "it is missing" in told(planned, "000002")
    planned.put(layout.batch_record("b"), b"{}", "application/json")
    with pytest.raises(PermanentError, match=r"batch.json of batch 'b' is damaged: name: missing") as error:
        read_batch(planned, "b")
    assert error.value.reason == "manifest_damaged"


def test_a_plan_does_not_go_on_behind_a_damaged_part(store, empty_store, small_parts):
    with pytest.raises(Killed):
        plan("b", order(), there(10), Mortal(empty_store, 4))
    edited(store, "000000", lambda lines: lines[:3])
    with pytest.raises(PermanentError, match="part 000000"):
        plan("b", order(), there(10), store)


CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"


def looked(store, given, top):
    """What a walk comes to, by name: kind, frame, size and refusal."""
    found = {}
    for item in Intake(Settings(), store, in_place=True).walk([given]):
        refusal = getattr(item, "refusal", None)
        refused = refusal and (refusal.reason, refusal.message)
        what = (type(item), getattr(item, "why", None), getattr(item, "frame", None), refused)
        found[item.name.removeprefix(top)] = what
    return found


@pytest.mark.shared_data
@pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the cases in {CASES}")
def test_odd_inputs_in_a_bucket_come_to_what_they_come_to_in_a_folder(store):
    paths = [path for path in CASES.rglob("*") if path.is_file() and path.suffix != ".npz"]
    for path in paths:
        key = f"cases/{path.relative_to(CASES)}"
        store.put(key, path.read_bytes(), "application/octet-stream", bucket=store.incoming_bucket)
    top = f"s3://{store.incoming_bucket}/cases/"
    in_bucket = looked(store, top, top)
    in_folder = {
        name: what for name, what in looked(store, str(CASES), "cases/").items() if not name.endswith(".npz")
    }
    assert in_bucket == in_folder
    assert len(in_bucket) >= len(paths)
