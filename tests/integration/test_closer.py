"""When batches close, and what is left of them then."""

import io
import threading

import pyarrow.parquet as pq
import pytest

from dermbatch import layout
from dermbatch.errors import StoreUnavailable
from dermbatch.records.asked import BatchSummary
from dermbatch.records.row import row_of, sealed, sent
from dermbatch.stages import Stage
from orchestrator.dispatch import closer as closer_module
from orchestrator.reporting.table import parts
from orchestrator.steering import controls
from tests.outcome_samples import result_of, write_record


def summary(orchestra, name="b"):
    return BatchSummary.model_validate_json(orchestra.key(layout.summary(name)))


def indices(jobs):
    return sorted(job.index for job in jobs)


def test_a_finished_batch_ends_with_its_reports_and_leaves_nothing_in_redis(orchestra):
    orchestra.plan(5)
    orchestra.dispatcher.feed()
    one, *others = orchestra.take()
    orchestra.failed(one)
    orchestra.done(*others)
    orchestra.close()
    assert (summary(orchestra).done, summary(orchestra).failed) == (4, 1)
    for key in (layout.report, layout.table):
        assert orchestra.key(key("b"))
    assert orchestra.control() is None
    assert orchestra.ledger.batches.all() == []
    left = set(orchestra.client.keys("*")) - {f"dermbatch:{name}" for name in ("slots", "leader", "clock", "wake")}
    assert left == set()


def test_an_unfinished_or_paused_batch_stays_open(orchestra):
    orchestra.plan(3)
    orchestra.dispatcher.feed()
    one, two, three = orchestra.take()
    orchestra.done(one, two)
    orchestra.close()
    controls.pause(orchestra.store, orchestra.ledger, "b")
    orchestra.done(three)
    orchestra.close()
    assert orchestra.state().finished
    assert orchestra.key(layout.summary("b")) is None
    controls.resume(orchestra.store, orchestra.ledger, "b")
    orchestra.close()
    assert summary(orchestra).done == 3


def test_an_outcome_without_a_record_is_not_believed_and_its_image_runs_again(orchestra):
    orchestra.plan(30)
    orchestra.work_off()
    for index in (4, 17):
        orchestra.store.delete(layout.result("b", index))
    orchestra.close()
    assert orchestra.key(layout.summary("b")) is None
    assert (orchestra.state().done, orchestra.state().next_index) == (28, 4)
    assert indices(orchestra.work_off()) == [4, 17]
    orchestra.close()
    assert summary(orchestra).done == 30


def test_a_cancelled_batch_closes_when_what_was_begun_has_ended(orchestra):
    orchestra.plan(30)
    orchestra.dispatcher.feed()
    running, waiting, *queued = orchestra.take()
    claim = orchestra.claim(running)
    orchestra.ledger.images.postpone(orchestra.claim(waiting), 60)
    controls.cancel(orchestra.store, orchestra.ledger, "b")
    orchestra.close()
    assert orchestra.state().in_flight == 1
    assert orchestra.key(layout.summary("b")) is None
    assert orchestra.ledger.images.claim(queued[0], "w/2") == "unknown"
    orchestra.ledger.images.finish(running, claim.owner, "failed", "truncated")
    for _ in range(2):
        orchestra.close()
    assert (summary(orchestra).state, summary(orchestra).images, summary(orchestra).done) == ("cancelled", 30, 0)
    assert orchestra.state() is None
    assert orchestra.control() is None


def test_a_batch_record_damaged_before_closing_pauses_the_batch_with_a_sentence(orchestra):
    orchestra.plan(3)
    orchestra.work_off()
    whole = orchestra.key(layout.batch_record("b"))
    orchestra.store.put(layout.batch_record("b"), b"{", "application/json")
    orchestra.close()
    assert orchestra.state().state == "paused"
    assert "batch.json of batch 'b' is damaged" in orchestra.state().why
    orchestra.store.put(layout.batch_record("b"), whole, "application/json")
    controls.resume(orchestra.store, orchestra.ledger, "b")
    orchestra.close()
    assert summary(orchestra).done == 3


@pytest.fixture
def held(orchestra, monkeypatch):
    """Two batches; the first, finished, is being closed for as long as the test wants."""
    orchestra.plan(2, "first")
    orchestra.work_off()
    orchestra.plan(40, "second")
    begun, released = threading.Event(), threading.Event()
    orchestra.closer._pool._max_workers = 1  # so that the second has to wait
    close = closer_module.close

    def slowly(store, batch, *args):
        begun.set()
        assert released.wait(60)
        return close(store, batch, *args)

    monkeypatch.setattr(closer_module, "close", slowly)
    yield orchestra, begun, released
    released.set()


def test_while_one_batch_closes_another_is_fed_and_worked_off(held):
    orchestra, begun, released = held
    orchestra.closer.look()
    assert begun.wait(30)
    assert len(orchestra.work_off()) == 40
    orchestra.closer.look()
    orchestra.closer.look()
    assert orchestra.state("first") is not None
    released.set()
    orchestra.close()
    assert summary(orchestra, "first").done == 2
    assert summary(orchestra, "second").done == 40


def test_a_closing_that_fails_is_tried_again_but_not_at_every_look(orchestra, monkeypatch):
    orchestra.plan(2)
    orchestra.work_off()
    tried = []
    close = closer_module.close

    def failing(store, batch, *args):
        tried.append(batch.name)
        if len(tried) == 1:
            raise StoreUnavailable("the object store is gone")
        return close(store, batch, *args)

    monkeypatch.setattr(closer_module, "close", failing)
    orchestra.closer.look()
    while orchestra.closer._closing:
        orchestra.closer.look()
    for _ in range(20):
        orchestra.closer.look()
    assert tried == ["b"]
    monkeypatch.setattr(closer_module, "_PAUSE_AFTER_ERROR", 0)
    orchestra.closer._not_before.clear()  # as time does
    orchestra.close()
    assert summary(orchestra).done == 2


def test_a_defect_in_closing_one_batch_does_not_end_the_service(orchestra, monkeypatch):
    orchestra.plan(2)
    orchestra.work_off()
    monkeypatch.setattr(closer_module, "close", lambda *args: 1 / 0)
    orchestra.closer.look()
    while orchestra.closer._closing:
        orchestra.closer.look()
    assert orchestra.state().finished
    assert orchestra.control() is not None


def test_stopping_waits_for_what_is_being_closed_and_leaves_the_rest(held):
    orchestra, begun, released = held
    orchestra.work_off()
    orchestra.closer.look()
    assert begun.wait(30)
    threading.Timer(0.3, released.set).start()
    orchestra.closer.stop()
    assert summary(orchestra, "first").done == 2
    assert orchestra.key(layout.summary("second")) is None
    assert orchestra.state("second").state == "open"


def test_rows_are_gathered_while_a_batch_runs_and_those_of_another_hand_are_not_believed(orchestra, monkeypatch):
    monkeypatch.setattr(parts, "ROWS", 10)
    orchestra.plan(25)
    ledger, key = orchestra.ledger, orchestra._signing
    done = 0
    while done < 24:
        orchestra.dispatcher.feed()
        for job in orchestra.take():
            if done == 24:
                break
            record = result_of("b", job.index, stages=(Stage.SEGMENT,), preview=b"")
            write_record(orchestra.store, record)
            forged = record.model_copy(update={"name": "forged"})
            row = sent(row_of(forged if job.index == 3 else record))
            row = row if job.index == 3 else sealed(row, "b", key)
            ledger.images.finish(job, orchestra.claim(job).owner, "done", row=row)
            ledger.images.finish(job, "again", "done", row=row)  # told twice
            done += 1
    assert ledger.batches.rows_waiting(["b"]) == {"b": 24}
    orchestra.close()
    assert ledger.batches.rows_waiting(["b"]) == {"b": 4}
    assert len(list(orchestra.store.list(orchestra.store.bucket, "gathered/b/"))) == 4
    orchestra.work_off()
    orchestra.close()
    orchestra.close()
    assert summary(orchestra).done == 25
    body = orchestra.key(layout.table("b"))
    rows = pq.read_table(io.BytesIO(body)).to_pylist()
    assert [row["index"] for row in rows] == list(range(25))
    assert rows[3]["name"] == ("forged" if key is None else "folder/000003.jpg")
    assert list(orchestra.store.list(orchestra.store.bucket, "gathered/")) == []
    assert [name for name in orchestra.client.keys("*") if "rows" in name] == []
