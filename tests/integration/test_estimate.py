"""The estimate on a real store: it says what planning then writes, and writes nothing itself."""

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from rich.console import Console

from dermbatch import layout
from dermbatch.records.asked import BatchSummary, Filters, ModelChoice, Order
from dermbatch.records.outcome import ImageInfo, KnownImage, ModelUsed, PurifyOutput, SegmentOutput, StageRecord
from dermbatch.settings import Settings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import read_manifest_part
from orchestrator.batches.history import read_history
from orchestrator.cli.tables.estimate import estimate_table
from orchestrator.planning import estimate as module
from orchestrator.planning.estimate import estimate
from orchestrator.planning.intake.candidates import Candidate
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.planner import plan
from tests import corpus

PNG = b"\x89PNG\r\n\x1a\n"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
STAGES = (Stage.PURIFY, Stage.SEGMENT)
MODELS = {Stage.PURIFY: ModelChoice(name="p", version="1"), Stage.SEGMENT: ModelChoice(name="s", version="2")}
ORDER = Order(models=MODELS, stages=STAGES)


@pytest.fixture
def store(empty_store):
    return ObjectStore(empty_store)


def there(count):
    """Local files, that are read to be counted."""
    return [Candidate(f"x{n}", read=partial(str.encode, f"{n:032x}"), size=n) for n in range(count)]


def content(n):
    return layout.content(hashlib.sha256(f"{n:032x}".encode()).hexdigest())


def record(stage, key, model, version, fed_by):
    outputs = {
        Stage.PURIFY: PurifyOutput(occluded_fraction=0),
        Stage.SEGMENT: SegmentOutput(lesion=None, touches_frame=False, confidence=1),
    }
    return StageRecord(
        stage=stage,
        key=key,
        model=ModelUsed(name=model, version=version, sha256="ab" * 32),
        parameters={},
        fed_by=fed_by,
        artifacts={},
        seconds=1,
        output=outputs[stage],
    )


def know(store, n, *, segment="2", fed_by=None):
    """The cache knows image n: purified, and segmented by this version."""
    records = {"kp": record(Stage.PURIFY, "kp", "p", "1", {})}
    if segment:
        records["ks"] = record(Stage.SEGMENT, "ks", "s", segment, fed_by or {Stage.PURIFY: "kp"})
    image = ImageInfo(sha256="ab" * 32, bytes=n, media_type="image/png", height=1, width=1)
    body = KnownImage(image=image, stages=records).to_json()
    store.put(layout.known(content(n)), body, "application/json")


def close_batch(store, name, *, purify, segment, image, runs=10, slots=4):
    summary = BatchSummary(
        name=name,
        images=runs,
        done=runs,
        failed=0,
        reasons={},
        created=NOW,
        closed=NOW,
        stage_seconds={Stage.PURIFY: purify, Stage.SEGMENT: segment},
        stage_runs={Stage.PURIFY: runs, Stage.SEGMENT: runs},
        image_seconds=image,
        slots=slots,
        software="1",
    )
    store.put(layout.summary(name), summary.to_json(), "application/json")


def objects(store):
    return [
        (bucket, info.key, info.etag, info.modified)
        for bucket in (store.bucket, store.incoming_bucket)
        for info in store.list(bucket, "")
    ]


def shown(found, **more):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(estimate_table(found, **more))
    return console.export_text()


@pytest.fixture
def inputs(store, tmp_path):
    folder = tmp_path / "scan"
    folder.mkdir()
    for name, body in (("a.png", b"1"), ("b.png", b"2"), ("copy.png", b"1"), ("old.png", b"3")):
        (folder / name).write_bytes(PNG + body)
    (folder / "notes.txt").write_text("text")
    (folder / "broken.zip").write_bytes(b"no archive")
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        for name, body in (("1.png", PNG + b"1"), ("2.png", PNG + b"7"), ("3", PNG + b"8"), ("../4.png", PNG)):
            archive.writestr(name, body)
    for key, body in (("p/d.png", PNG + b"1"), ("p/e.1.2", PNG + b"9"), ("p/f.txt", b"text")):
        store.put(key, body, "x", bucket="incoming")
    return [str(folder), "s3://incoming/p/"]


def test_what_is_predicted_is_what_planning_then_writes(store, inputs):
    intake = Intake(Settings(), store, in_place=True, filters=Filters(exclude=("old*",)))
    before = objects(store)
    found = estimate(ORDER, intake.walk(inputs, unpack=False), store, now=NOW, unpack=True)
    packed = estimate(ORDER, intake.walk(inputs, unpack=False), store, now=NOW)
    assert objects(store) == before
    batch = plan("b", ORDER, intake.walk(inputs), store)
    written = read_manifest_part(store, "b", "000000", images=batch.images)
    same = ("images", "skipped", "left_out", "duplicates")
    assert [getattr(found, name) for name in same] == [getattr(batch, name) for name in same] == [10, 2, 1, 3]
    assert found.bytes == sum(entry.size or 0 for entry in written)
    assert found.refused == sum(entry.refusal is not None for entry in written) == 2
    assert found.to_run == {Stage.PURIFY: 5, Stage.SEGMENT: 5}
    assert (packed.images, packed.skipped, packed.left_out, packed.bytes) == (10, 2, 1, found.bytes)
    assert (found.unread, packed.unread, packed.duplicates) == (0, 3, 2)
    assert "3 not unpacked" in shown(packed)


def test_without_a_finished_batch_there_are_no_times(store):
    found = estimate(ORDER, there(3), store, now=NOW, price=2)
    assert (found.seconds, found.gpu_seconds, found.cost, found.finished) == (None, None, None, None)
    assert "no batch has finished yet" in shown(found)


def test_times_and_cost_are_those_of_finished_batches(store):
    close_batch(store, "one", purify=1, segment=2, image=4, runs=10)
    close_batch(store, "two", purify=3, segment=2, image=8, runs=30)
    close_batch(store, "cached", purify=0, segment=0, image=0, runs=0)
    history = read_history(store)
    assert (history.batches, history.slots) == (2, 4)
    assert history.stage_seconds == {Stage.PURIFY: 2.5, Stage.SEGMENT: 2}
    assert history.other_seconds == pytest.approx((10 * 1 + 30 * 3) / 40)
    found = estimate(ORDER, there(100), store, now=NOW, slots=10, price=3.6, gpus=2)
    assert found.seconds == pytest.approx(100 * 7 / 10)
    assert found.gpu_seconds == pytest.approx(140)
    assert found.cost == pytest.approx(0.14)
    assert found.finished == NOW + timedelta(seconds=70)
    text = shown(found, price=3.6)
    assert "0:01:10 with 10 worker slots, as measured in the last 2 batches" in text
    assert "0.14 at 3.6 for a GPU-hour" in text
    assert json.loads(json.dumps(found.to_dict()))["to_run"] == {"purify": 100, "segment": 100}
    only = estimate(Order(models=MODELS, stages=(Stage.PURIFY,)), there(100), store, now=NOW)
    assert only.seconds == pytest.approx(100 * 5 / 4)
    unknown = Order(models={Stage.ENHANCE: ModelChoice(name="e")}, stages=(Stage.ENHANCE,))
    never = estimate(unknown, there(1), store, now=NOW)
    assert (never.batches, never.seconds) == (2, None)
    assert "has run all of these stages" in shown(never)


def test_only_the_newest_batches_are_taken(store):
    for n in range(4):
        close_batch(store, f"z{9 - n}", purify=n, segment=0, image=n)
    assert read_history(store, newest=1).stage_seconds[Stage.PURIFY] == 3


def test_what_is_known_with_the_asked_models_is_done(store):
    know(store, 0)
    know(store, 1, segment="1")
    know(store, 2, segment=None)
    know(store, 3, fed_by={Stage.PURIFY: "another"})
    store.put(layout.known(content(4)), b"no record", "application/json")
    found = estimate(ORDER, [*there(6), *there(1)], store, now=NOW)
    assert (found.done, found.duplicates, found.about) == (1, 1, False)
    assert found.to_run == {Stage.PURIFY: 2, Stage.SEGMENT: 5}
    assert "about" not in shown(found)
    any_version = Order(models={**MODELS, Stage.SEGMENT: ModelChoice(name="s")}, stages=STAGES)
    assert estimate(any_version, there(6), store, now=NOW).done == 2


def test_objects_where_they_lie_are_known_by_their_bytes_and_never_by_their_etag(store):
    know(store, 0)
    for n in range(2):  # one that is known, and one that only its ETag and size say is the same
        store.put(f"x{n}", f"{n:032x}".encode(), "x", bucket="incoming")
    objects = [
        Candidate(f"x{n}", uri=f"s3://incoming/x{n}", size=32, etag=f"{n % 2:032x}", frame=None) for n in range(3)
    ]
    found = estimate(ORDER, objects, store, now=NOW)
    assert (found.done, found.duplicates, found.about) == (1, 1, False)
    assert found.to_run == {Stage.PURIFY: 1, Stage.SEGMENT: 1}


def test_of_many_a_sample_is_looked_into(store, monkeypatch):
    monkeypatch.setattr(module, "LOOKED_INTO", 20)
    for n in range(80):
        know(store, n, segment="2" if n < 40 else "1")
    store.put("images/known/odd.json", b"", "application/json")
    asked = []
    real = ObjectStore.get
    monkeypatch.setattr(ObjectStore, "get", lambda self, bucket, key: asked.append(key) or real(self, bucket, key))
    found = estimate(ORDER, there(100), store, now=NOW)
    assert len(asked) == 20
    assert found.about
    assert found.to_run[Stage.PURIFY] == 20
    assert 15 <= found.done <= 65
    assert found.to_run[Stage.SEGMENT] == 100 - found.done
    assert f"about {found.done}" in shown(found)


def test_frames_are_counted_with_one_read_of_their_file(store, tmp_path):
    (tmp_path / "film.dcm").write_bytes(corpus.frames(*(corpus.DRAWN.image,) * 3))
    items = list(Intake(Settings(), None, in_place=False).walk([str(tmp_path / "film.dcm")]))
    reads = []

    def read():
        reads.append(1)
        return (tmp_path / "film.dcm").read_bytes()

    found = estimate(ORDER, [replace(item, read=read) for item in items], store, now=NOW)
    assert (found.images, found.duplicates, len(reads)) == (3, 0, 1)
