"""What decisions teach: one lesson for each image, or the reason why there is none."""

from datetime import UTC, datetime, timedelta

import pytest
from standins import Store

from dermbatch import layout
from dermbatch.records.outcome import KnownImage
from dermbatch.records.review import Decision, DrawnMask, Seen
from dermbatch.review.feedback import Lesson, NoLesson, lessons
from dermbatch.review.kept import keep
from dermbatch.stages import Stage
from dermbatch.stored import write
from tests.outcome_samples import SIDE, result_of, write_record

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
MASK = DrawnMask(height=SIDE, width=SIDE, counts=(64, 1000, SIDE * SIDE - 1064))


@pytest.fixture
def store():
    made = Store()
    for index in range(3):
        write_record(made, result_of("b", index))
    return made


def decide(store, reader="ada", index=0, version=1, minute=0, **fields):
    record = result_of("b", index)
    stages = {stage: one.key for stage, one in record.stages.items()}
    seen = Seen(sha256=record.source.sha256, stages=stages, shown=True, blank=False)
    made = NOW + timedelta(minutes=minute)
    keep(
        store,
        Decision(batch="b", index=index, reader=reader, version=version, made=made, seen=seen, **fields),
    )


def only(store):
    (found,) = lessons(store, "b")
    return found


def test_a_lesson_says_who_when_and_by_which_models(store):
    decide(store, diagnosis=("melanoma",), mask=MASK)
    decide(store, "bob", diagnosis=("melanoma",), minute=5)
    decide(store, index=2, mask=MASK)
    first, second = lessons(store, "b")
    assert isinstance(first, Lesson)
    assert (first.diagnosis, first.mask, first.record.index) == ("melanoma", MASK, 0)
    assert {one.reader for one in first.decisions} == {"ada", "bob"}
    assert first.models[Stage.CLASSIFY].name == "classify_net"
    assert (second.diagnosis, second.mask) == (None, MASK)


def test_the_last_version_of_each_reader_and_the_last_mask_count(store):
    decide(store, diagnosis=("melanoma",), mask=MASK)
    other = DrawnMask(height=SIDE, width=SIDE, counts=(0, SIDE * SIDE))
    decide(store, version=2, minute=3, diagnosis=("nevus",), mask=other)
    decide(store, "bob", minute=1, diagnosis=("nevus",), mask=MASK)
    assert (only(store).diagnosis, only(store).mask) == ("nevus", other)


def test_who_adjudicates_decides(store):
    decide(store, diagnosis=("melanoma",))
    decide(store, "bob", diagnosis=("nevus",))
    assert only(store) == NoLesson("b", 0, ("ada", "bob"), "readers_disagree")
    decide(store, "eve", minute=9, kind="adjudicate", diagnosis=("nevus",))
    assert (only(store).diagnosis, [one.reader for one in only(store).decisions]) == ("nevus", ["eve"])


def test_what_was_returned_counts_once_it_was_corrected(store):
    decide(store, diagnosis=("melanoma",))
    decide(store, "eve", minute=1, kind="return", to="ada")
    assert only(store).why == "returned"
    decide(store, version=2, minute=2, diagnosis=("nevus",))
    assert only(store).diagnosis == "nevus"


def test_who_gives_two_readings_back_has_given_back_both(store):
    decide(store, diagnosis=("melanoma",))
    decide(store, "bob", diagnosis=("nevus",))
    decide(store, "eve", minute=1, kind="return", to="ada")
    decide(store, "eve", version=2, minute=2, kind="return", to="bob")
    assert only(store) == NoLesson("b", 0, ("ada", "bob", "eve"), "returned")
    decide(store, "bob", version=2, minute=3, diagnosis=("nevus",))
    assert (only(store).diagnosis, [one.reader for one in only(store).decisions]) == ("nevus", ["bob"])


def test_who_is_not_sure_says_no_diagnosis_but_a_mask(store):
    decide(store, diagnosis=("melanoma",), unsure=True)
    assert only(store).why == "unsure"
    decide(store, "bob", diagnosis=("nevus",), mask=MASK)
    assert (only(store).diagnosis, only(store).mask) == ("nevus", MASK)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"diagnosis": ("melanoma", "nevus")}, "several_diagnoses"),
        ({"comment": "later"}, "nothing_decided"),
        ({"mask": DrawnMask(height=2, width=2, counts=(4,))}, "another_size"),
    ],
)
def test_what_teaches_nothing_has_a_word(store, fields, why):
    decide(store, **fields)
    assert only(store).why == why


def test_of_a_deleted_image_nothing_is_taught(store):
    decide(store, diagnosis=("nevus",))
    store.delete(layout.result("b", 0))
    assert only(store).why == "deleted"
    write_record(store, result_of("b", 1).model_copy(update={"index": 0}))
    assert only(store).why == "another_image"


def segmented_again(record):
    """The newer of two segmentations of a result's image, and what is known of the image."""
    old = record.stages[Stage.SEGMENT]
    newer = old.model_copy(update={"key": "ff" * 16})
    return newer, KnownImage(image=record.source, stages={old.key: old, newer.key: newer})


def test_what_was_segmented_again_is_looked_for_among_the_results_of_the_images_tenant(store):
    record = result_of("b", 0).model_copy(update={"preview": "tenants/clinic-a/images/ab/preview/cd/preview.jpg"})
    write_record(store, record)
    decide(store, diagnosis=("nevus",), mask=MASK)
    _, known = segmented_again(record)
    write(store, layout.known_of(record.source.sha256), known)
    assert only(store).diagnosis == "nevus"  # another's
    write(store, layout.known_of(record.source.sha256, "clinic-a"), known)
    assert only(store).why == "resegmented"


def test_of_a_lesion_that_was_segmented_again_nothing_is_taught_but_where_the_reader_knew(store):
    decide(store, diagnosis=("nevus",), mask=MASK)
    record = result_of("b", 0)
    newer, known = segmented_again(record)
    write(store, layout.known_of(record.source.sha256), known)
    assert only(store).why == "resegmented"
    decide(store, version=2, diagnosis=("nevus",), mask=MASK, despite={Stage.SEGMENT: newer.key})
    assert only(store).diagnosis == "nevus"
    classified = record.stages[Stage.CLASSIFY].model_copy(update={"key": "ee" * 16})
    known = known.model_copy(update={"stages": {**known.stages, classified.key: classified}})
    write(store, layout.known_of(record.source.sha256), known)
    assert only(store).diagnosis == "nevus"  # classified again: what the reader saw of the picture is as it was
