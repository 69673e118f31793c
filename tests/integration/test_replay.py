"""Replaying failures: those images, only those, and nothing lost when it is cut off anywhere."""

import pytest

from dermbatch import layout
from dermbatch.errors import StoreUnavailable, UsageError
from dermbatch.records.asked import BatchSummary
from dermbatch.store import ObjectStore
from orchestrator.steering import controls
from orchestrator.steering.replay import retry


def indices(jobs):
    return sorted(job.index for job in jobs)


@pytest.fixture
def failed(orchestra):
    """A batch of 10, fed to its end: 2 and 5 were truncated, 7 found no store, the others are done."""
    orchestra.plan(10)
    orchestra.dispatcher.feed()
    for job in orchestra.take():
        if job.index in {2, 5}:
            orchestra.failed(job)
        elif job.index == 7:
            orchestra.failed(job, reason="store_unavailable")
        else:
            orchestra.done(job)
    assert orchestra.state().finished
    return orchestra


def closed(orchestra):
    orchestra.close()
    assert orchestra.state() is None
    return orchestra


def summary(orchestra):
    return BatchSummary.model_validate_json(orchestra.key(layout.summary("b")))


@pytest.mark.parametrize(
    ("reason", "again"), [(None, [2, 5, 7]), ("truncated", [2, 5]), ("store_unavailable", [7])]
)
def test_a_closed_batch_is_open_again_for_what_failed(failed, reason, again):
    closed(failed)
    assert summary(failed).failed == 3
    assert retry(failed.store, failed.ledger, "b", reason) == len(again)
    assert failed.key(layout.summary("b")) is None
    state = failed.state()
    assert (state.done, state.failed) == (7, 3 - len(again))
    assert indices(failed.work_off()) == again
    closed(failed)
    assert (summary(failed).done, summary(failed).failed) == (7 + len(again), 3 - len(again))
    assert failed.control() is None
    left = [failed.key(layout.failure("b", index)) for index in again]
    assert left == [None] * len(again)


def test_an_open_batch_goes_on_with_them(orchestra):
    orchestra.plan(40)
    orchestra.dispatcher.feed()
    first = orchestra.take()
    orchestra.failed(*first[:4])
    assert retry(orchestra.store, orchestra.ledger, "b") == 4
    state = orchestra.state()
    assert (state.state, state.failed, state.reasons, state.next_index) == ("open", 0, {}, 0)
    orchestra.done(*first[4:])
    assert indices(orchestra.work_off()) == indices(first[:4]) + list(range(12, 40))


def test_where_nothing_failed_so_nothing_changes(failed):
    closed(failed)
    ended = failed.key(layout.summary("b"))
    assert retry(failed.store, failed.ledger, "b", "poison") == 0
    assert failed.key(layout.summary("b")) == ended
    assert failed.control() is None


def test_what_fails_again_is_a_failure_again(failed):
    closed(failed)
    retry(failed.store, failed.ledger, "b", "truncated")
    failed.dispatcher.feed()
    failed.failed(*failed.take(), reason="corrupt")
    closed(failed)
    assert summary(failed).reasons == {"corrupt": 2, "store_unavailable": 1}


class Killed(BaseException):
    """As if the process were killed."""


class Dying(ObjectStore):
    """The same store, through which only so many writes and deletions pass."""

    def __init__(self, settings, left):
        super().__init__(settings)
        self.left = left

    def _spend(self):
        if self.left == 0:
            raise Killed
        self.left -= 1

    def put(self, *args, **more):
        self._spend()
        return super().put(*args, **more)

    def delete(self, *args, **more):
        self._spend()
        super().delete(*args, **more)


@pytest.mark.parametrize("again", ["retry", "resume"])
@pytest.mark.parametrize("writes", range(6))
def test_cut_off_anywhere_it_goes_on(failed, empty_store, writes, again):
    closed(failed)
    with pytest.raises(Killed):
        retry(Dying(empty_store, writes), failed.ledger, "b")
    failed.reconcile()
    assert failed.work_off() == []  # nothing runs until it is complete
    if again == "retry" or writes < 2:
        retry(failed.store, failed.ledger, "b")
    else:
        controls.resume(failed.store, failed.ledger, "b")
    ran = []
    for _ in range(3):  # what was counted as failed, but has no record any more, is found when it closes
        ran += failed.work_off()
        failed.close()
    assert failed.state() is None
    printed = summary(failed)
    assert (printed.done + printed.failed, printed.images) == (10, 10)
    whole = again == "retry" or writes < 2
    assert indices(ran) == ([2, 5, 7] if whole else [2, 5, 7][: writes - 2])
    assert printed.failed == 3 - len(ran)


def test_a_batch_paused_meanwhile_is_open_afterwards(failed):
    controls.pause(failed.store, failed.ledger, "b")
    assert retry(failed.store, failed.ledger, "b") == 3
    assert failed.state().state == "open"


def test_an_outage_in_the_middle_leaves_it_paused_with_the_reason(failed, empty_store):
    class Gone(ObjectStore):
        def delete(self, key, **more):
            if "failed/" in key:
                raise StoreUnavailable("the object store is gone")
            super().delete(key, **more)

    closed(failed)
    with pytest.raises(StoreUnavailable):
        retry(Gone(empty_store), failed.ledger, "b")
    failed.reconcile()
    assert failed.state().why == "failures are being replayed"
    assert retry(failed.store, failed.ledger, "b") == 3
    assert indices(failed.work_off()) == [2, 5, 7]


def test_a_cancelled_batch_is_not_brought_back_to_life(orchestra):
    orchestra.plan(40)
    orchestra.dispatcher.feed()
    first, *others = orchestra.take()
    orchestra.failed(first)
    controls.cancel(orchestra.store, orchestra.ledger, "b")
    with pytest.raises(UsageError, match="batch 'b' is cancelled; submit its images again under another name"):
        retry(orchestra.store, orchestra.ledger, "b")
    assert others
    for _ in range(3):
        orchestra.close()
    assert summary(orchestra).state == "cancelled"
    with pytest.raises(UsageError, match="is cancelled"):
        retry(orchestra.store, orchestra.ledger, "b")


def test_a_batch_that_is_just_closing_and_one_that_is_not_there_are_refused(failed):
    with pytest.raises(UsageError, match="just being closed"):
        retry(failed.store, failed.ledger, "b")
    with pytest.raises(UsageError, match="there is no batch 'nope'"):
        retry(failed.store, failed.ledger, "nope")


def test_a_result_counts_more_than_a_failure_left_beside_it(failed):
    body = failed.key(layout.failure("b", 2))
    failed.store.put(layout.failure("b", 3), body, "application/json")
    closed(failed)
    assert retry(failed.store, failed.ledger, "b") == 3
    assert indices(failed.work_off()) == [2, 5, 7]


def test_a_failure_that_was_never_counted_is_not_taken_from_the_count(orchestra):
    orchestra.plan(6)
    orchestra.dispatcher.feed()
    one, two, three, *_ = orchestra.take()
    orchestra.failed(one, two)
    # As where a worker died between its record and the ledger.
    orchestra.ledger.batches.rewind("b", {one.index: "truncated", three.index: "truncated"})
    assert (orchestra.state().failed, orchestra.state().reasons) == (1, {"truncated": 1})
