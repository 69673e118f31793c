"""Pause, resume, cancel, prioritize: what the object store and Redis hold afterwards."""

import pytest
from orchestra import there

from dermbatch import layout
from dermbatch.errors import LedgerUnavailable, StoreRefused, UsageError
from dermbatch.ledger import Ledger
from dermbatch.records.asked import BatchControl
from dermbatch.settings import LedgerSettings, RedisSettings
from orchestrator.stack.ports import free_ports
from orchestrator.steering import controls


def control(orchestra, name="b"):
    return BatchControl.model_validate_json(orchestra.control(name))


def both(orchestra, name="b"):
    """The control of a batch, which store and Redis agree on."""
    assert control(orchestra, name) == orchestra.state(name).control
    return control(orchestra, name)


def test_a_paused_batch_is_not_fed_and_goes_on_when_resumed(orchestra):
    orchestra.plan(30)
    orchestra.dispatcher.feed()
    begun = orchestra.take()
    controls.pause(orchestra.store, orchestra.ledger, "b")
    assert both(orchestra).state == "paused"
    assert orchestra.state().why == "paused by hand"
    orchestra.done(*begun)  # what was begun is finished
    assert orchestra.dispatcher.feed() == 0
    assert orchestra.state().done == len(begun)
    controls.pause(orchestra.store, orchestra.ledger, "b")
    controls.resume(orchestra.store, orchestra.ledger, "b")
    assert both(orchestra).state == "open"
    assert both(orchestra).why == ""
    assert len(orchestra.work_off()) == 30 - len(begun)


def test_cancelling_ends_a_batch_for_good(orchestra):
    orchestra.plan(30)
    orchestra.dispatcher.feed()
    controls.cancel(orchestra.store, orchestra.ledger, "b")
    assert both(orchestra).state == "cancelled"
    assert orchestra.dispatcher.feed() == 0
    for change in (controls.pause, controls.resume, controls.cancel):
        with pytest.raises(UsageError, match="batch 'b' is cancelled; submit its images again"):
            change(orchestra.store, orchestra.ledger, "b")
    with pytest.raises(UsageError, match="is cancelled"):
        controls.prioritize(orchestra.store, orchestra.ledger, "b", weight=2)
    orchestra.close()
    orchestra.close()
    with pytest.raises(UsageError, match="batch 'b' has ended"):
        controls.resume(orchestra.store, orchestra.ledger, "b")


def test_another_lane_and_weight_count_from_the_next_image_on(orchestra):
    orchestra.plan(30)
    orchestra.dispatcher.feed()
    assert {len(orchestra.take("bulk")), len(orchestra.take("live"))} == {12, 0}
    controls.prioritize(orchestra.store, orchestra.ledger, "b", lane="live")
    assert (both(orchestra).lane, both(orchestra).weight) == ("live", 1)
    controls.prioritize(orchestra.store, orchestra.ledger, "b", weight=7)
    assert (both(orchestra).lane, both(orchestra).weight) == ("live", 7)
    orchestra.ledger.slots.report("w/1")
    for number in range(5):
        orchestra.ledger.slots.report(f"w/{number}")
    orchestra.dispatcher.feed()
    assert orchestra.take("bulk") == []
    assert len(orchestra.take("live")) == 3


@pytest.mark.parametrize("change", [controls.pause, controls.resume, controls.cancel, controls.prioritize])
def test_what_is_no_open_batch_is_not_steered(orchestra, change):
    with pytest.raises(UsageError, match="there is no batch 'nope'"):
        change(orchestra.store, orchestra.ledger, "nope")
    with pytest.raises(UsageError, match="cannot be used"):
        change(orchestra.store, orchestra.ledger, "../up")
    orchestra.plan(2)
    orchestra.work_off()
    orchestra.close()
    with pytest.raises(UsageError, match="batch 'b' has ended"):
        change(orchestra.store, orchestra.ledger, "b")
    assert orchestra.control() is None


def test_the_store_learns_of_it_first_so_that_nobody_is_told_what_a_flush_undoes(orchestra):
    orchestra.plan(2)
    (port,) = free_ports(1)
    gone = Ledger(RedisSettings(url=f"redis://127.0.0.1:{port}/0"), LedgerSettings())
    with pytest.raises(LedgerUnavailable):
        controls.pause(orchestra.store, gone, "b")
    assert control(orchestra).state == "paused"
    assert orchestra.state().state == "open"
    orchestra.reconcile()
    assert both(orchestra).state == "paused"


def test_where_the_store_refuses_nothing_is_changed(orchestra):
    orchestra.plan(2)

    class Refusing:
        bucket = orchestra.store.bucket
        get = orchestra.store.get

        def put(self, *args):
            raise StoreRefused("its policy must allow this")

    with pytest.raises(StoreRefused):
        controls.pause(Refusing(), orchestra.ledger, "b")
    assert both(orchestra).state == "open"


def test_a_flushed_redis_keeps_what_was_decided(orchestra):
    for name in ("paused", "cancelled", "moved"):
        orchestra.plan(there(20), name)
    controls.pause(orchestra.store, orchestra.ledger, "paused")
    controls.cancel(orchestra.store, orchestra.ledger, "cancelled")
    controls.prioritize(orchestra.store, orchestra.ledger, "moved", lane="live", weight=9)
    before = {name: control(orchestra, name) for name in ("paused", "cancelled", "moved")}
    orchestra.client.flushall()
    assert orchestra.ledger.batches.all() == []
    assert sorted(orchestra.reconcile()) == ["cancelled", "moved", "paused"]
    assert {name: both(orchestra, name) for name in before} == before


def test_a_control_damaged_by_hand_pauses_its_batch_until_it_is_resumed(orchestra):
    orchestra.plan(3)
    orchestra.store.put(layout.control("b"), b"{", "application/json")
    orchestra.reconcile()
    assert orchestra.state().state == "paused"
    assert "open/b.json is damaged" in orchestra.state().why
    controls.resume(orchestra.store, orchestra.ledger, "b")
    assert both(orchestra).state == "open"
    assert len(orchestra.work_off()) == 3


def test_a_batch_paused_while_it_was_planned_begins_paused(orchestra):
    orchestra.store.put(layout.control("b"), BatchControl().to_json(), "application/json")  # as planning begins
    controls.pause(orchestra.store, orchestra.ledger, "b")
    orchestra.plan(3)
    assert both(orchestra).state == "paused"
    assert orchestra.dispatcher.feed() == 0


def test_steering_a_batch_that_closes_at_that_moment_leaves_nothing_behind(orchestra):
    orchestra.plan(2)
    orchestra.ledger.batches.forget("b")
    assert not orchestra.ledger.batches.steer("b", BatchControl())
    orchestra.ledger.batches.advance("b", 1)
    orchestra.ledger.batches.note_rate("b", 3.0, None)
    orchestra.ledger.batches.feed_from("b", 0)
    assert orchestra.client.keys("dermbatch:batch:*") == []
