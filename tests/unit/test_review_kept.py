"""Each decision is kept once and never over another one; a decision on something outdated is a conflict."""

from datetime import UTC, datetime, timedelta

import pytest
from outcome_samples import result_of, write_record
from standins import Store

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, ReviewConflict
from dermbatch.records.outcome import KnownImage
from dermbatch.records.review import Decision, DrawnMask, Feature, Seen
from dermbatch.review.kept import decisions, keep, latest, newer_results, of_batch
from dermbatch.stages import Stage
from dermbatch.stored import write

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


@pytest.fixture
def store():
    made = Store()
    for index in range(2):
        write_record(made, result_of("b", index))
    return made


def decision(store, reader="ada", version=1, **fields):
    record = result_of("b", fields.get("index", 0))
    stages = {stage: one.key for stage, one in record.stages.items()}
    seen = Seen(sha256=record.source.sha256, stages=stages, shown=True, blank=False)
    told = {"batch": "b", "index": 0, "reader": reader, "version": version, "made": NOW, "seen": seen}
    return Decision(**{**told, **fields})


def run_again(store):
    """Have the first image segmented by another model since."""
    record = result_of("b", 0)
    old = {one.key: one for one in record.stages.values()}
    newer = record.stages[Stage.SEGMENT].model_copy(update={"key": "f" * 32})
    image = {name: getattr(record.source, name) for name in type(record.source).__base__.model_fields}
    known = KnownImage(image=image, stages={**old, newer.key: newer}, previews={})
    write(store, layout.known_of(record.source.sha256), known)
    return record


def test_each_decision_stays_as_it_was_made(store):
    first = decision(store, diagnosis=("nevus",), mask=DrawnMask(height=2, width=2, counts=(1, 3)))
    second = decision(store, version=2, diagnosis=("melanoma", "nevus"), unsure=True)
    region = DrawnMask(height=2, width=2, counts=(0, 4))
    other = decision(store, "b/ö ../x", features=(Feature(term="blue_white_veil", region=region),))
    for one in (first, other, second):
        keep(store, one)
    found = decisions(store, "b", 0)
    assert sorted(found, key=lambda one: (one.reader, one.version)) == [first, second, other]
    assert latest(found) == {"ada": second, "b/ö ../x": other}
    assert decisions(store, "b", 1) == []
    assert sorted(of_batch(store, "b"), key=lambda one: (one.reader, one.version)) == [first, second, other]
    assert all(key.startswith("reviews/b/000000/0/") for key in store.keys("^reviews"))


def test_the_same_request_once_more_changes_nothing(store):
    one = decision(store)
    keep(store, one)
    keep(store, one)
    later = one.model_copy(update={"made": NOW + timedelta(seconds=1)})
    assert keep(store, later) == one
    assert decisions(store, "b", 0) == [one]


def test_the_same_request_after_a_new_run_is_kept_as_it_was(store):
    one = decision(store)
    keep(store, one)
    run_again(store)
    assert keep(store, one) == one
    with pytest.raises(ReviewConflict, match="segment was run again"):
        keep(store, decision(store, version=2))


def test_of_two_that_follow_the_same_one_the_second_is_told(store):
    keep(store, decision(store))
    with pytest.raises(ReviewConflict, match="ada has decided 1 times") as refused:
        keep(store, decision(store, comment="in another window"))
    assert refused.value.reason == "decided_meanwhile"
    assert decisions(store, "b", 0) == [decision(store)]


def test_a_version_is_not_left_out(store):
    with pytest.raises(ReviewConflict, match="has decided 0 times"):
        keep(store, decision(store, version=2))
    assert decisions(store, "b", 0) == []


def test_readers_do_not_stand_in_each_others_way(store):
    keep(store, decision(store, "ada"))
    keep(store, decision(store, "bo"))
    assert set(latest(decisions(store, "b", 0))) == {"ada", "bo"}


def test_an_image_that_is_another_now_is_a_conflict(store):
    seen = decision(store).seen.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(ReviewConflict, match="not the one that the reader saw") as refused:
        keep(store, decision(store, seen=seen))
    assert refused.value.reason == "another_image"


def test_an_image_that_is_gone_is_named(store):
    with pytest.raises(ObjectNotFound):
        keep(store, decision(store, index=7))


def test_what_was_run_again_since_is_a_conflict_until_the_reader_knows(store):
    record = run_again(store)
    made = decision(store)
    assert newer_results(store, record.source.sha256, made.seen.stages) == {Stage.SEGMENT: "f" * 32}
    with pytest.raises(ReviewConflict, match="segment was run again") as refused:
        keep(store, made)
    assert refused.value.reason == "newer_results"
    keep(store, decision(store, despite={Stage.SEGMENT: "f" * 32}))
    assert len(decisions(store, "b", 0)) == 1


@pytest.mark.parametrize("counts", [(1, 0, 3), (5,), (-1, 5), ()])
def test_a_mask_that_is_none_is_refused(counts):
    with pytest.raises(ValueError, match="run"):
        DrawnMask(height=2, width=2, counts=counts)


def test_what_is_returned_says_whose_it_is(store):
    with pytest.raises(ValueError, match="whose"):
        decision(store, kind="return")
    with pytest.raises(ValueError, match="whose"):
        decision(store, to="bo")
    keep(store, decision(store, kind="return", to="bo", comment="the border"))
