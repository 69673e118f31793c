"""After a loss of Redis, or of a command: what the object store holds is all that is needed to go on."""

from datetime import UTC, datetime

from orchestra import there

from dermbatch import layout
from dermbatch.records.asked import BatchControl, BatchSummary, ModelChoice, Order
from dermbatch.stages import Stage
from orchestrator.planning.planner import plan
from orchestrator.steering import controls
from orchestrator.steering.reconciler import open_names, reconcile, reopen
from tests.outcome_samples import batch_of, entry_of, failure_of, result_of, write_manifest, write_record


def indices(jobs):
    return sorted(job.index for job in jobs)


def planned_only(orchestra, count, name):
    """What a submit leaves that dies after batch.json."""
    return plan(
        name,
        Order(models={Stage.SEGMENT: ModelChoice(name="m")}, stages=(Stage.SEGMENT,)),
        there(count),
        orchestra.store,
    )


def test_a_flush_in_the_middle_of_a_batch_costs_no_outcome_and_none_is_there_twice(orchestra):
    orchestra.plan(60)
    for _ in range(2):
        orchestra.dispatcher.feed()
        orchestra.done(*orchestra.take())
    orchestra.dispatcher.feed()
    lost, running, failing, *others = orchestra.take()
    orchestra.failed(failing)
    claim = orchestra.claim(running)
    orchestra.client.flushall()
    assert not orchestra.ledger.slots.remembers()
    # A worker that was busy meanwhile: it may still finish, and nobody knows its image.
    assert not orchestra.ledger.images.heartbeat(claim)
    write_record(orchestra.store, result_of("b", running.index))
    orchestra.ledger.images.finish(running, claim.owner, "done")
    assert orchestra.reconcile() == ["b"]
    state = orchestra.state()
    assert (state.images, state.done, state.failed, state.reasons) == (60, 25, 1, {"truncated": 1})
    again = orchestra.work_off()
    assert indices(again) == indices([lost, *others]) + list(range(36, 60))
    orchestra.close()
    assert orchestra.state() is None
    summary = BatchSummary.model_validate_json(orchestra.key(layout.summary("b")))
    assert (summary.done, summary.failed) == (59, 1)
    assert orchestra.reconcile() == []


def test_a_batch_that_only_the_store_knows_is_found(orchestra):
    planned_only(orchestra, 5, "b")
    assert orchestra.reconcile() == ["b"]
    assert orchestra.reconcile() == []
    assert indices(orchestra.work_off()) == [0, 1, 2, 3, 4]


def test_a_batch_that_is_still_planned_is_left_alone(orchestra):
    orchestra.store.put(layout.control("b"), BatchControl().to_json(), "application/json")
    assert orchestra.reconcile() == []
    assert orchestra.control() is not None


def test_the_control_of_a_closed_batch_is_tidied_up(orchestra):
    orchestra.plan(2)
    orchestra.work_off()
    control = orchestra.control()
    orchestra.close()
    orchestra.store.put(
        layout.control("b"), control, "application/json"
    )  # the closing died before the last deletion
    assert orchestra.reconcile() == []
    assert orchestra.control() is None
    assert orchestra.state() is None


def test_redis_does_as_the_store_says(orchestra):
    orchestra.plan(2)
    orchestra.ledger.batches.steer("b", BatchControl(state="paused", why="?", weight=4))
    orchestra.reconcile()
    assert orchestra.state().control == BatchControl()


def test_one_damaged_batch_does_not_keep_others_from_being_restored(orchestra):
    for name in ("a", "b", "c"):
        orchestra.plan(3, name)
    orchestra.store.put(layout.batch_record("a"), b"{", "application/json")
    orchestra.store.put(layout.manifest_part("b", "000000"), b"{", "application/x-ndjson")
    orchestra.client.flushall()
    assert orchestra.reconcile() == ["b", "c"]
    assert {job.batch for job in orchestra.work_off()} == {"c"}
    assert orchestra.state("b").state == "paused"
    assert set(open_names(orchestra.store)) == {"a", "b", "c"}


def test_batches_without_control_and_summary_are_opened_again(orchestra):
    orchestra.plan(3, "lost")
    orchestra.plan(3, "open")
    orchestra.plan(3, "closed")
    controls.cancel(orchestra.store, orchestra.ledger, "closed")
    orchestra.close()
    orchestra.close()
    orchestra.store.delete(layout.control("lost"))
    orchestra.store.put(layout.plan_record("given-up"), b"{}", "application/json")
    orchestra.store.put(layout.batch_record("damaged"), b"{}", "application/json")
    orchestra.client.flushall()
    assert reopen(orchestra.store) == ["lost"]
    assert reopen(orchestra.store) == []
    assert reconcile(orchestra.store, orchestra.ledger) == ["lost", "open"]


def test_many_failures_and_a_record_damaged_by_hand_are_counted(orchestra):
    count = 1100
    batch = batch_of("b", count)
    write_manifest(orchestra.store, batch, map(entry_of, range(count)))
    controls.begin(orchestra.store, orchestra.ledger, batch)
    orchestra.store.put(layout.control("b"), BatchControl().to_json(), "application/json")
    for index in range(1, 1003):
        write_record(orchestra.store, failure_of("b", index))
    orchestra.store.put(layout.failure("b", 0), b"{", "application/json")
    orchestra.client.flushall()
    begin = datetime.now(UTC)
    assert orchestra.reconcile() == ["b"]
    assert (datetime.now(UTC) - begin).total_seconds() < 60
    state = orchestra.state()
    assert (state.failed, sum(state.reasons.values())) == (1003, 1003)
    assert state.reasons["truncated"] == 999
