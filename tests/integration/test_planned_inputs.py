"""What a planner takes of a real store: pages, filters, frames, archives, copies; what cannot be listed."""

import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from planning import PNG, Killed, Mortal, entries, order, packed

from dermbatch.errors import UsageError
from dermbatch.phantoms.samples import dicom
from dermbatch.records.asked import Filters
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from orchestrator.planning.intake.candidates import Candidate, LeftOut
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.planner import plan
from tests import corpus


@pytest.fixture
def store(empty_store):
    return ObjectStore(empty_store)


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
