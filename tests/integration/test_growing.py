"""Batches that take images in one by one, as the dispatcher, closer, reconciler and commands treat them."""

import pytest
from orchestra import there
from rich.console import Console

from dermbatch import layout
from dermbatch.records.asked import BatchSummary, Refusal
from dermbatch.stages import Stage
from orchestrator.batches.growing import seal, write_batch
from orchestrator.cli.tables.overview import rendered
from orchestrator.planning.intake.candidates import Candidate
from orchestrator.planning.resegment import earlier_images
from orchestrator.reporting.overview import standing
from orchestrator.steering import controls
from orchestrator.steering.replay import retry
from tests.outcome_samples import batch_of, entry_of, write_manifest


def grown(orchestra, images, growing=True, ahead=0, **changes):
    """The batch as a watcher writes it: parts, then the record; ``ahead`` lines are not in the record yet."""
    batch = batch_of("b", images, rule="clinic", growing=growing, stages=(Stage.SEGMENT,), **changes)
    write_manifest(orchestra.store, batch, map(entry_of, range(images + ahead)))
    orchestra.store.put(layout.control("b"), controls.BatchControl().to_json(), "application/json")
    return batch


def begun(orchestra, images, **more):
    batch = grown(orchestra, images, **more)
    orchestra.ledger.batches.open(batch)
    return batch


def indices(jobs):
    return sorted(job.index for job in jobs)


def test_what_is_taken_in_later_is_fed_on_and_the_batch_closes_only_when_it_is_sealed(orchestra):
    begun(orchestra, 3, ahead=2)
    assert indices(orchestra.work_off()) == [0, 1, 2]
    orchestra.close()
    state = orchestra.state()
    assert (state.images, state.left, state.growing, state.finished, state.rule) == (3, 0, True, False, "clinic")
    for images in (5, 20):
        before = orchestra.state().images
        assert orchestra.ledger.batches.grow(grown(orchestra, images))
        assert indices(orchestra.work_off()) == list(range(before, images))
    orchestra.ledger.batches.grow(seal(orchestra.store, "b"))
    orchestra.close()
    assert orchestra.state() is None
    summary = BatchSummary.model_validate_json(orchestra.key(layout.summary("b")))
    assert (summary.images, summary.done) == (20, 20)


def test_it_grows_over_the_end_of_a_part(orchestra):
    size = layout.PART_SIZE
    batch = grown(orchestra, size - 3)
    orchestra.ledger.batches.restore(batch, controls.BatchControl(), range(size - 3), [])
    orchestra.ledger.batches.advance("b", size - 3)
    for images in (size - 1, size, size + 2):
        before = orchestra.state().images
        orchestra.ledger.batches.grow(grown(orchestra, images))
        assert indices(orchestra.work_off()) == list(range(before, images))


def test_the_ledger_never_takes_images_away_nor_lets_a_sealed_batch_grow_again(orchestra):
    begun(orchestra, 5)
    orchestra.ledger.batches.grow(batch_of("b", 4, rule="clinic", growing=True))
    assert orchestra.state().images == 5
    orchestra.ledger.batches.grow(batch_of("b", 6, rule="clinic", growing=False))
    orchestra.ledger.batches.grow(batch_of("b", 9, rule="clinic", growing=True))
    assert (orchestra.state().images, orchestra.state().growing) == (6, False)
    assert not orchestra.ledger.batches.grow(batch_of("unknown", 1, growing=True))
    assert orchestra.state("unknown") is None


def test_a_sealed_batch_with_images_left_is_gone_through_to_its_end(orchestra):
    begun(orchestra, 3)
    orchestra.work_off()
    orchestra.ledger.batches.grow(grown(orchestra, 7, growing=False))
    assert indices(orchestra.work_off()) == [3, 4, 5, 6]
    orchestra.close()
    assert orchestra.key(layout.summary("b"))


def test_growth_and_sealing_that_the_ledger_was_not_told_of_are_picked_up(orchestra):
    begun(orchestra, 3)
    grown(orchestra, 5)
    orchestra.reconcile()
    assert (orchestra.state().images, orchestra.state().growing) == (5, True)
    grown(orchestra, 6, growing=False)
    orchestra.reconcile()
    assert (orchestra.state().images, orchestra.state().growing) == (6, False)


def test_after_a_loss_of_redis_a_growing_batch_is_restored_as_one(orchestra):
    begun(orchestra, 3, ahead=1)
    orchestra.work_off()
    orchestra.client.flushall()
    assert orchestra.reconcile() == ["b"]
    state = orchestra.state()
    assert (state.images, state.done, state.growing, state.rule) == (3, 3, True, "clinic")
    orchestra.close()
    assert orchestra.state() is not None
    orchestra.ledger.batches.grow(grown(orchestra, 4))
    assert indices(orchestra.work_off()) == [3]


def test_too_few_outcomes_of_a_growing_batch_do_not_pause_it(orchestra):
    begun(orchestra, 1, max_failed_share=0.1)
    orchestra.dispatcher.feed()
    orchestra.failed(*orchestra.take())
    orchestra.ledger.batches.grow(grown(orchestra, 3, max_failed_share=0.1))
    orchestra.dispatcher.feed()
    assert len(orchestra.take()) == 2
    assert orchestra.state().state == "open"


def test_many_failures_pause_a_growing_batch_and_it_takes_images_in_all_the_same(orchestra):
    begun(orchestra, 24, max_failed_share=0.5)
    for _ in range(2):
        orchestra.dispatcher.feed()
        orchestra.failed(*orchestra.take())
    orchestra.ledger.batches.grow(grown(orchestra, 30, max_failed_share=0.5))
    orchestra.dispatcher.feed()
    assert (orchestra.state().state, orchestra.state().images) == ("paused", 30)
    controls.resume(orchestra.store, orchestra.ledger, "b")
    assert indices(orchestra.work_off()) == [24, 25, 26, 27, 28, 29]


def test_cancelled_it_is_sealed_and_closed_and_a_writer_of_it_is_refused(orchestra):
    begun(orchestra, 3, ahead=2)
    _, seen = orchestra.store.read(orchestra.store.bucket, layout.batch_record("b"))
    orchestra.work_off()
    controls.cancel(orchestra.store, orchestra.ledger, "b")
    orchestra.close()
    assert orchestra.state() is None
    summary = BatchSummary.model_validate_json(orchestra.key(layout.summary("b")))
    assert (summary.state, summary.images, summary.done) == ("cancelled", 3, 3)
    later = batch_of("b", 5, rule="clinic", growing=True)
    assert write_batch(orchestra.store, later, seen) is None
    assert not seal(orchestra.store, "b").growing


def test_failures_of_a_growing_batch_are_tried_again(orchestra):
    begun(orchestra, 3)
    orchestra.dispatcher.feed()
    first, *others = orchestra.take()
    orchestra.failed(first)
    orchestra.done(*others)
    assert retry(orchestra.store, orchestra.ledger, "b") == 1
    orchestra.ledger.batches.grow(grown(orchestra, 4))
    assert indices(orchestra.work_off()) == [0, 3]
    assert (orchestra.state().done, orchestra.state().failed, orchestra.state().growing) == (4, 0, True)


def test_a_resegment_takes_what_is_there_by_then(orchestra):
    grown(orchestra, 3, ahead=2)
    assert [item.earlier.index for item in earlier_images(orchestra.store, ["b"])] == [0, 1, 2]


def test_lines_that_are_missing_are_damage_in_a_growing_batch_too(orchestra):
    begun(orchestra, 3)
    part = layout.manifest_part("b", "000000")
    orchestra.store.put(part, orchestra.key(part).splitlines(keepends=True)[0], "application/x-ndjson")
    orchestra.dispatcher.feed()
    assert "it has 1 lines instead of 3" in orchestra.state().why


@pytest.mark.parametrize("known", [True, False])
def test_status_says_that_it_takes_images_in_and_by_which_rule(orchestra, known):
    begun(orchestra, 2)
    if not known:
        orchestra.client.flushall()
    shown = standing(orchestra.store, orchestra.ledger, "b")
    assert (shown.batches[0].growing, shown.batches[0].rule) == (True, "clinic")
    assert "takes images in by rule clinic" in str(rendered(shown, Console()))


def test_a_refused_input_of_a_growing_batch_fails_and_is_passed_over_later(orchestra):
    orchestra.plan([Candidate("a.zip", refusal=Refusal(reason="zip_corrupt", message="it")), *there(1)], "other")
    begun(orchestra, 2)
    orchestra.work_off()
    assert (orchestra.state("other").failed, orchestra.state().done) == (1, 2)


def test_a_conditional_write_replaces_only_what_was_seen(orchestra):
    store = orchestra.store
    first = store.put_if_match("c/x", b"1", "text/plain", None)
    assert first is not None
    assert store.put_if_match("c/x", b"2", "text/plain", None) is None
    second = store.put_if_match("c/x", b"2", "text/plain", first)
    assert second not in {None, first}
    assert store.put_if_match("c/x", b"3", "text/plain", first) is None
    assert store.get(store.bucket, "c/x") == b"2"
    store.delete("c/x")
    assert store.put_if_match("c/x", b"3", "text/plain", second) is None
