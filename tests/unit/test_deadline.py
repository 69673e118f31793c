"""Deadlines and objectives: what is told beforehand, how urgent a batch becomes, and what was attained."""

from datetime import UTC, datetime, timedelta

import pytest
from standins import Store

from dermbatch.errors import UsageError
from dermbatch.ledger import BatchState
from dermbatch.records.asked import Filters, ModelChoice, Order
from dermbatch.records.row import row_of, sent
from dermbatch.settings import Settings
from dermbatch.stages import ORDER, Stage
from orchestrator.batches.history import History
from orchestrator.batches.summary import Tally
from orchestrator.planning import submission
from orchestrator.planning.deadline import promise, reckoned, urgency
from orchestrator.planning.tenants.tenant import Objectives, Tenant
from orchestrator.reporting.table.columns import rows_of
from tests.outcome_samples import batch_of, result_of

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
HISTORY = History(batches=2, slots=4, stage_seconds=dict.fromkeys(Stage, 1.0), other_seconds=1.0)


def standing(left, seconds_left, state="open"):
    return BatchState(
        name="b",
        lane="bulk",
        weight=1,
        state=state,
        why="",
        images=left,
        next_index=0,
        done=0,
        failed=0,
        in_flight=0,
        waiting=0,
        opened=NOW,
        seconds_left=seconds_left,
    )


@pytest.mark.parametrize(
    ("own", "open_batches", "answer"),
    [
        (1000, [], "met"),
        (3601, [], "missed"),
        (3601, [standing(5, None)], "missed"),
        (1000, [standing(5, 2600), standing(5, 100)], "met"),  # they share, so both end when the last one does
        (1000, [standing(5, 2601)], "open"),
        (1000, [standing(5, None)], "unknown"),
        (1000, [standing(5, None, "paused"), standing(0, None)], "met"),
        (None, [], "unknown"),
    ],
)
def test_it_is_said_beforehand_whether_a_deadline_can_be_met(own, open_batches, answer):
    found = promise(NOW + timedelta(hours=1), NOW, own, open_batches)
    assert found.answer == answer
    assert found.sentence.startswith("deadline 2026-03-02 09:00 UTC: ")
    assert found.to_dict()["answer"] == answer


def test_what_images_take_at_most_is_reckoned_from_what_was_measured():
    order = Order(models={stage: ModelChoice(name="m") for stage in ORDER})
    assert reckoned(order, 100, HISTORY, 10) == 50
    assert reckoned(order, 2, HISTORY, 10) == 5
    assert reckoned(order, 100, HISTORY, 0) == 125
    assert reckoned(order, 100, None, 10) is None
    assert reckoned(order, 100, History(1, 4, {Stage.PURIFY: 1.0}, 0), 10) is None


@pytest.mark.parametrize("deadline", [NOW - timedelta(days=9000), datetime.now(UTC)])
def test_a_deadline_that_is_over_is_refused(deadline):
    order = submission.order(Settings(), ["purify"], {}, deadline=deadline)
    with pytest.raises(UsageError, match=r"^the deadline .* UTC has passed; give a later one$"):
        submission.prepare(order, ["s3://x/y"], Settings(), Store(), None, filters=Filters())


def test_a_deadline_without_a_zone_is_refused():
    with pytest.raises(UsageError, match=r"deadline: .*timezone"):
        submission.order(Settings(), ["purify"], {}, deadline=datetime(2026, 3, 2))


@pytest.mark.parametrize(
    ("in_hours", "left", "more"),
    [(None, 100, 1), (1, None, 1), (1, 3600, 1), (1, 7200, 2), (1, 10**6, 10), (-1, 100, 1), (0, 100, 1)],
)
def test_a_batch_becomes_urgent_where_it_would_miss_its_deadline(in_hours, left, more):
    deadline = None if in_hours is None else NOW + timedelta(hours=in_hours)
    assert urgency(deadline, NOW, left) == more


def test_a_live_order_carries_what_its_tenant_is_promised():
    tenant = Tenant(name="clinic-a", objectives=Objectives(live_p95_seconds=10))
    models = {stage: ModelChoice(name="m") for stage in ORDER}
    assert tenant.admitted(Order(models=models, tenant="clinic-a", lane="live")).wait_objective == 10
    assert tenant.admitted(Order(models=models, tenant="clinic-a")).wait_objective is None


def test_a_summary_says_how_long_results_waited_and_whether_the_deadline_was_met():
    batch = batch_of("b", 40, deadline=NOW + timedelta(hours=1), wait_objective=10)
    records = [result_of("b", n).model_copy(update={"waited": 30.0 if n == 0 else 1.0}) for n in range(40)]
    tally = Tally(batch.order.wait_objective)
    tally.add(rows_of([sent(row) for row in map(row_of, records)]))
    summary = tally.summary(batch, "finished", 1)
    assert (summary.late, summary.waited_p95) == (1, 1.0)
    assert summary.met is True
    assert summary.model_copy(update={"state": "cancelled"}).met is False
    late = summary.last_finished - timedelta(seconds=1)
    assert summary.model_copy(update={"deadline": late}).met is False
    nothing = Tally().summary(batch_of("b", 40), "finished", 1)
    assert (nothing.late, nothing.waited_p95, nothing.met) == (None, None, None)
