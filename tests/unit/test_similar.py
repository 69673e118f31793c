"""Similar cases without servers: the index, facts, refinements, and what is wrong."""

import io
from datetime import date, timedelta

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from standins import Store

from dermbatch import layout
from dermbatch.errors import ArtifactDamaged, PermanentError, StoreUnavailable, UsageError
from dermbatch.records.asked import BatchSummary, Deidentification
from dermbatch.records.outcome import ResultRecord
from dermbatch.stored import read
from orchestrator.reporting.table.columns import as_parquet
from orchestrator.similar import answer as answers
from orchestrator.similar import codes, growing, identity
from orchestrator.similar.answer import Question, answer
from orchestrator.similar.answer_json import values_of
from orchestrator.similar.facts import NOTHING, parse
from orchestrator.similar.held import Forbidden, read_index
from orchestrator.similar.patterns import Box
from orchestrator.similar.picture import look_of
from orchestrator.similar.shelf import IndexShelf, Refinement
from tests.outcome_samples import CREATED, batch_of, entry_of, mask_png, result_of, table_of, write_manifest

SIDE = 96


def lesion(seed=0, *, radius=24, gain=1.0, at=(48, 48), spots=True):
    """A dark blob on skin, with spots in its upper half, and its mask."""
    picture = np.full((SIDE, SIDE, 3), (200, 165, 150), np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(mask, at, radius, 255, -1)
    picture[mask > 0] = (110, 70, 60)
    random = np.random.default_rng(seed)
    for _ in range(30 if spots else 0):
        x, y = random.integers(-radius // 2, radius // 2, 2)
        cv2.circle(picture, (int(at[0] + x), int(at[1] - abs(y))), 2, (40, 25, 20), -1)
    return np.clip(picture * gain, 0, 255).astype(np.uint8), mask


def strip(picture):
    tile = cv2.resize(picture, (224, 224))
    return cv2.imencode(".jpg", cv2.cvtColor(np.concatenate([tile] * 4, axis=1), cv2.COLOR_RGB2BGR))[1].tobytes()


def case(batch, index, vector, *, picture=None, name=None, **changes):
    picture, _ = lesion(index) if picture is None else (picture, None)
    record = result_of(batch, index, vector=np.asarray(vector, np.float32), preview=strip(picture), **changes)
    return record if name is None else record.model_copy(update={"name": name})


def close(store, batch, records):
    """A closed batch of these results."""
    write_manifest(store, batch, [entry_of(index) for index in range(batch.images)])
    for record in records:
        write_record(store, record)
    store.put(layout.table(batch.name), as_parquet(table_of(records)), "")
    store.put(layout.summary(batch.name), summary(batch, len(records)), "")


def write_record(store, record):
    store.put(layout.result(record.batch, record.index), record.to_json(), "")
    segment = record.stages.get("segment")
    if segment is not None:
        store.put(segment.artifacts["mask.png"], mask_png(20), "")


def summary(batch, done, closed=CREATED):
    return BatchSummary(
        name=batch.name,
        state="finished",
        images=batch.images,
        done=done,
        failed=0,
        reasons={},
        created=CREATED,
        closed=closed,
        first_started=None,
        last_finished=None,
        stage_seconds={},
        stage_runs={},
        image_seconds=0.0,
        slots=1,
        software="0",
    ).to_json()


def directions(count, seed=0):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, 4)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def near(vector, seed):
    """One that is alike, but not nearly equal: the less, the higher the seed."""
    aside = directions(1, 3)[0]
    aside = aside - (aside @ vector) * vector
    other = vector + (0.3 + 0.1 * seed) * aside / np.linalg.norm(aside)
    return other / np.linalg.norm(other)


@pytest.fixture(scope="module")
def two_batches():
    """Objects of two closed batches: six cases, of which 1 and 2 are most like 0."""
    store = Store()
    first = directions(1, 5)[0]
    vectors = [first, near(first, 1), near(first, 2), -first]
    close(store, batch_of("monday", images=4), [case("monday", n, vector) for n, vector in enumerate(vectors)])
    more = [case("tuesday", n, vector) for n, vector in zip((10, 11), directions(2, 9), strict=True)]
    close(store, batch_of("tuesday", images=12), more)
    growing.rebuild(store)
    return store.objects


@pytest.fixture
def store(two_batches):
    """A store of one's own that holds them."""
    store = Store()
    store.objects = two_batches.copy()
    return store


def ask(store, batch="monday", index=0, **asked):
    record = read(store, layout.result(batch, index), ResultRecord)
    return answer(store, IndexShelf(), Question(record, **asked))


def names(found):
    return [(one.batch, one.index) for one in found.neighbours]


# The index.


def test_an_index_says_what_it_holds_and_grows_with_batches(store):
    (index,) = growing.indexes(store)
    assert (index.version, index.cases, growing.waiting(store, index)) == (1, 6, 0)
    close(store, batch_of("wednesday", images=2), [case("wednesday", n, directions(1, n)[0]) for n in range(2)])
    assert growing.waiting(store, index) == 2
    assert ask(store).waiting == 2
    grown = growing.grow(store, index.model.sha256)
    assert (grown.version, grown.cases, growing.waiting(store, grown)) == (2, 8, 0)
    assert growing.grow(store, index.model.sha256) == grown


@pytest.mark.parametrize("trained", [False, True])
def test_an_embedding_without_direction_is_left_out_alone_and_counted(store, monkeypatch, trained):
    if trained:  # as of more than 20,000
        monkeypatch.setattr(growing, "EXACT", 5)
        monkeypatch.setattr(
            growing, "train", lambda some: pytest.fail("no") if not some.all(axis=1).all() else b"x"
        )
        monkeypatch.setattr(growing, "Coder", lambda dimension, _: codes.Coder(dimension))
    (index,) = growing.indexes(store)
    bad = [np.zeros(4), [np.nan, 1, 0, 0], [np.inf, 1, 0, 0]]
    records = [case("friday", n, vector) for n, vector in enumerate([*bad, *directions(2, 7)])]
    close(store, batch_of("friday", images=5), records)
    if not trained:
        grown = growing.grow(store, index.model.sha256)
        assert (grown.cases, grown.passed_over) == (8, 3)
    (rebuilt,) = growing.rebuild(store)
    assert (rebuilt.cases, rebuilt.passed_over, growing.waiting(store, rebuilt)) == (8, 3, 0)


def test_an_index_takes_the_batch_that_has_just_closed_and_looks_at_no_other(store):
    (index,) = growing.indexes(store)
    for name in ("wednesday", "thursday"):
        close(store, batch_of(name, images=1), [case(name, 0, directions(1)[0])])
    grown = growing.grow(store, index.model.sha256, "thursday")
    assert (grown.cases, growing.waiting(store, grown)) == (7, 1)
    assert growing.grow(store, index.model.sha256, "no such batch") == grown
    assert growing.grow(store, index.model.sha256).cases == 8


def test_a_batch_that_is_deleted_is_dropped_and_one_that_closed_again_is_taken_again(store):
    (index,) = growing.indexes(store)
    store.delete_prefix(store.bucket, "batches/tuesday/")
    monday = batch_of("monday", images=4)
    records = [case("monday", n, directions(1, n)[0]) for n in range(3)]
    store.put(layout.table("monday"), as_parquet(table_of(records)), "")
    store.put(layout.summary("monday"), summary(monday, 3, CREATED + timedelta(days=1)), "")
    assert growing.grow(store, index.model.sha256).cases == 3


def test_of_two_that_grow_an_index_neither_loses_what_the_other_took(store):
    (index,) = growing.indexes(store)
    close(store, batch_of("wednesday", images=1), [case("wednesday", 0, directions(1)[0])])
    conditional = store.put_if_match

    def beaten(key, body, content_type, etag):
        store.put_if_match = conditional
        close(store, batch_of("thursday", images=1), [case("thursday", 0, directions(1)[0])])
        growing.grow(store, index.model.sha256)
        return conditional(key, body, content_type, etag)

    store.put_if_match = beaten
    assert growing.grow(store, index.model.sha256).cases == 8
    store.put_if_match = lambda *_: None
    close(store, batch_of("friday", images=1), [case("friday", 0, directions(1)[0])])
    with pytest.raises(StoreUnavailable):
        growing.grow(store, index.model.sha256)


def test_images_without_lesion_failed_or_not_dermoscopic_are_not_held(store):
    records = [
        case("odd", 0, directions(1)[0], area=0),
        case("odd", 1, directions(1)[0], flags=("not_dermoscopic",)),
        case("odd", 2, directions(1)[0], stages=("purify", "segment")),
    ]
    close(store, batch_of("odd", images=3), records)
    (index,) = growing.rebuild(store)
    assert index.cases == 6
    assert growing.waiting(store, index) == 0


@pytest.mark.parametrize("harm", ["cut", "gone", "other", "no_json", "another_model"])
def test_a_damaged_index_is_one_clear_answer_and_made_again(store, harm):
    (index,) = growing.indexes(store)
    shard, own = index.shards[0].key, layout.similar_index(index.model.sha256)
    body = store.objects["results", own]
    if harm == "gone":
        store.delete(shard)
    elif harm in {"cut", "other"}:
        store.put(shard, store.objects["results", shard][:-9] if harm == "cut" else b"x", "")
    else:
        changed = body.replace(b"ab" * 32, b"cd" * 32)
        store.put(own, b"{" if harm == "no_json" else changed, "")
    with pytest.raises(PermanentError, match="dermbatch cases rebuild") as caught:
        ask(store)
    assert caught.value.reason == "index_damaged"
    growing.rebuild(store)
    assert names(ask(store))[:2] == [("monday", 1), ("monday", 2)]


def test_an_index_of_another_models_embeddings_is_one_clear_answer(store):
    (index,) = growing.indexes(store)
    moved = layout.similar_index("cd" * 32)
    store.put(
        moved,
        store.objects.pop(("results", layout.similar_index(index.model.sha256))).replace(b"ab" * 32, b"cd" * 32),
        "",
    )
    with pytest.raises(
        PermanentError, match=r"no index of the embeddings of classify_net 1 .* of several models"
    ) as caught:
        ask(store)
    assert caught.value.reason == "no_index"
    assert read_index(store, "ef" * 32) is None


def placed_patterns(*cells, side=8):
    """A model's own descriptors: a direction and a length at (row, column), over a picture of cells."""
    found = np.zeros((side, side, 4), np.float16)
    for row, column, direction, length in cells:
        found[row, column] = np.eye(4)[direction] * length
    return found


def with_patterns(record, store, body):
    stage = record.stages["classify"]
    key = f"patterns/{record.batch}/{record.index}.npy"
    store.put(key, body, "")
    changed = stage.model_copy(update={"artifacts": stage.artifacts | {"patterns.npy": key}})
    return record.model_copy(update={"stages": record.stages | {"classify": changed}})


def as_file(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_patterns_that_a_model_gave_are_read_from_the_record_or_refused(store):
    record = read(store, layout.result("monday", 0), ResultRecord)
    one = with_patterns(record, store, as_file(placed_patterns((2, 2, 0, 1.0))))
    assert look_of(store, one).boxes == (
        Box(
            record.source.width // 4,
            record.source.height // 4,
            record.source.width // 2,
            record.source.height // 2,
        ),
    )
    for body in (b"no array", as_file(np.zeros((3, 3), np.float16)), as_file(np.zeros((3, 3, 3), np.uint8))):
        with pytest.raises(ArtifactDamaged, match="holds no patterns"):
            look_of(store, with_patterns(record, store, body))


# Answers.


def test_an_answer_names_the_nearest_and_what_each_region_counted(store):
    found = ask(store, count=3)
    assert names(found)[:2] == [("monday", 1), ("monday", 2)]
    assert ("monday", 0) not in names(found)
    assert found.sure
    first = found.neighbours[0]
    assert first.whole_counted == pytest.approx((1 - answers.LOCAL) * first.whole, abs=1e-3)
    assert first.similarity == pytest.approx(first.whole_counted + answers.LOCAL * first.local, abs=1e-3)
    assert sum(match.counted for match in first.matches) <= answers.LOCAL * first.local + 1e-3
    told = values_of(result_of("monday", 0), found)
    assert told["cases"][0]["matches"][0]["other"].keys() == {"left", "top", "right", "bottom"}
    assert told["image"]["probabilities"]["nevus"] == 0.7
    assert told["sure"] is True


def test_not_sure_where_nothing_is_near(store):
    found = ask(store, index=3)
    assert not found.sure
    assert found.why.startswith("not sure: nothing is near")
    assert found.neighbours
    nothing = ask(store, refinement=Refinement(diagnosis="no such"))
    assert (nothing.sure, nothing.neighbours) == (False, ())
    assert "no case that could be compared" in nothing.why


def test_deleted_and_forbidden_images_never_appear(store):
    assert names(ask(store, count=2)) == [("monday", 1), ("monday", 2)]
    store.delete(layout.result("monday", 1))
    assert names(ask(store, count=1)) == [("monday", 2)]
    again = result_of("monday", 2).source.sha256
    note = Forbidden(sha256=again, at=CREATED)
    store.put(layout.forbidden(again), note.to_json(), "")
    assert not {("monday", 1), ("monday", 2)} & set(names(ask(store, count=5)))
    store.delete(layout.forbidden(again))
    for key in store.keys(f"^images/{again}/.*mask.png$"):
        store.delete(key)  # its pictures are gone, its record is not
    assert ("monday", 2) not in names(ask(store, count=5))


def test_the_same_lesion_or_person_only_where_it_is_asked_for(store):
    store.put(layout.SIMILAR_FACTS, b"image,lesion,patient\n000000,L1,\n000001,L1,\n000002,,P1\n", "")
    assert names(ask(store, count=1)) == [("monday", 2)]
    assert names(ask(store, count=1, same=True)) == [("monday", 1)]
    store.put(layout.SIMILAR_FACTS, b"image,patient\n000000,P1\n000002,P1\n", "")
    assert ("monday", 2) not in names(ask(store))


def test_others_are_found_behind_many_of_the_same_person(store, monkeypatch):
    monkeypatch.setattr(answers, "_CANDIDATES", 1)
    monkeypatch.setattr(answers, "_A_CASE", 0)
    store.put(layout.SIMILAR_FACTS, b"image,patient\n000000,P1\n000001,P1\n000002,P1\n", "")
    others = names(ask(store, count=1))
    assert others
    assert not {("monday", 0), ("monday", 1), ("monday", 2)} & set(others)


def test_a_pseudonym_tells_a_person_only_with_the_same_salt():
    profile = {
        "profile": "p",
        "dates": "remove",
        "uids": "replace",
        "burned_in_text": "refuse",
        "reidentification": False,
    }
    store = Store()
    first = directions(1, 5)[0]
    for number, (batch, salt) in enumerate([("one", "s"), ("two", "s"), ("three", "t")]):
        how = Deidentification(**profile, salt=salt)
        name = f"P-{'0' * 20}/{number}.dcm"
        record = case(batch, number, near(first, 3 * number), name=name)
        close(store, batch_of(batch, images=number + 1, deidentified=how), [record])
    growing.rebuild(store)
    assert names(ask(store, "one", 0)) == [("three", 2)]
    assert len(names(ask(store, "one", 0, same=True))) == 2


def test_nearly_equal_pictures_are_of_one_lesion(store):
    close(store, batch_of("copy", images=21), [case("copy", 20, directions(1, 5)[0])])
    growing.rebuild(store)
    assert ("copy", 20) not in names(ask(store))
    assert names(ask(store, same=True))[0] == ("copy", 20)
    assert identity.SAME_PICTURE > 0.97


def test_refined_by_diagnosis_site_time_and_region(store):
    facts = b"image,site,diagnosis,taken\n000001,Back,melanoma,2020-05-01\n000002,arm,,2021-05-01\n"
    store.put(layout.SIMILAR_FACTS, facts, "")
    assert names(ask(store, refinement=Refinement(diagnosis="melanoma"))) == [("monday", 1)]
    assert ("monday", 1) not in names(ask(store, refinement=Refinement(diagnosis="nevus")))
    assert names(ask(store, refinement=Refinement(site="back"))) == [("monday", 1)]
    assert names(ask(store, refinement=Refinement(until=date(2020, 12, 31)))) == [("monday", 1)]
    assert names(ask(store, refinement=Refinement(since=date(2021, 1, 1), until=date(2021, 12, 31)))) == [
        ("monday", 2)
    ]
    chosen = ask(store, regions=(0, 2))
    assert {match.region for match in chosen.neighbours[0].matches} == {0, 2}
    with pytest.raises(UsageError, match="no region 999"):
        ask(store, regions=(999,))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"area": 0}, "no_lesion"),
        ({"flags": ("not_dermoscopic",)}, "not_dermoscopic"),
        ({"stages": ("purify", "segment")}, "no_embedding"),
        ({"vector": np.zeros(4, np.float32)}, "no_embedding"),
        ({"vector": np.ones(5, np.float32)}, "no_index"),
    ],
)
def test_what_cannot_be_asked_about_is_one_clear_answer(store, changes, reason):
    record = result_of("monday", 0, **changes)
    with pytest.raises(PermanentError) as caught:
        answer(store, IndexShelf(), Question(record))
    assert caught.value.reason == reason


def test_facts_are_by_digest_or_name_and_wrong_ones_name_their_line():
    known = parse("image,site,taken\nabc,back,2020-01-02\n" + "0" * 64 + ",arm,\n", "facts.csv")
    assert known.of("f" * 64, "folder/abc.jpg").site == "back"
    assert known.of("0" * 64, "abc.jpg").site == "arm"
    assert known.of("f" * 64, "abd.jpg") == NOTHING
    for text, where in [
        ("name\nx\n", "first line"),
        ("image,colour\nx,red\n", "first line"),
        ("", "first line"),
        ("image\nx\nx\n", "line 3"),
        ("image,taken\nx,yesterday\n", "line 2"),
        ("image\nx,1,2\n", "line 2"),
    ]:
        with pytest.raises(UsageError, match=where):
            parse(text, "facts.csv")


def test_a_shelf_reads_an_index_once_and_again_when_it_changed(store):
    shelf = IndexShelf()
    model = growing.indexes(store)[0].model
    first = shelf.get(store, model)
    assert shelf.get(store, model) is first
    close(store, batch_of("wednesday", images=1), [case("wednesday", 0, directions(1)[0])])
    growing.grow(store, model.sha256)
    assert shelf.get(store, model).coder.cases == 7


def test_a_shard_holds_no_more_than_is_needed(store):
    (index,) = growing.indexes(store)
    columns = pq.read_table(io.BytesIO(store.objects["results", index.shards[0].key])).column_names
    assert set(columns) == {
        "index",
        "name",
        "sha256",
        "label",
        "probability",
        "finished",
        "batch",
        "person",
        "code",
    }
