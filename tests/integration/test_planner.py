"""The planner on a real store: kills at any point, resumed plans, damaged parts."""

import hashlib
import json
import os
from itertools import islice
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planning import MODELS, PNG, Killed, Mortal, control, entries, order, packed, there

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, PermanentError, StoreRefused, StoreUnavailable, UsageError
from dermbatch.records.asked import BatchControl, Filters, ModelChoice, Order, PlanRecord, Position
from dermbatch.settings import Settings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import read_batch, read_manifest_part
from orchestrator.planning.intake.candidates import Candidate, LeftOut, Skipped
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.planner import abandon, plan


@pytest.fixture
def store(empty_store):
    return ObjectStore(empty_store)


def objects(store):
    return sorted(
        (bucket, info.key, info.etag, info.modified)
        for bucket in (store.bucket, store.incoming_bucket)
        for info in store.list(bucket, "")
    )


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


def test_a_plan_that_is_abandoned_begins_again_and_a_batch_is_not_abandoned(store, empty_store, small_parts):
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


# Damage


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
