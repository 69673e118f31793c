"""Plans of what is to be reviewed are kept once, and read as they were made."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError
from standins import Store

from dermbatch.errors import RecordDamaged, UsageError
from dermbatch.records.plan import Planned, ReviewPlan
from dermbatch.review.kept import of_batch
from dermbatch.review.plans import keep_plan, plan_names, plan_of

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


def plan(name="first", **fields):
    images = (Planned(batch="b", index=3, sha256="ab" * 32, reason="entropy", score=0.7),)
    told = {"name": name, "made": NOW, "strategy": "entropy", "seed": 0, "among": 5, "images": images}
    return ReviewPlan(**{**told, **fields})


def test_a_plan_is_read_as_it_was_kept_and_kept_once():
    store, first = Store(), plan()
    keep_plan(store, first)
    keep_plan(store, plan("again"))
    assert plan_of(store, "first") == first
    assert plan_names(store) == ["again", "first"]
    assert list(of_batch(store, "b")) == []  # a plan is no decision
    with pytest.raises(UsageError, match="there is a plan 'first' already"):
        keep_plan(store, plan(seed=1))
    assert plan_of(store, "first") == first


def test_there_is_none_where_there_is_none_and_a_damaged_one_is_said():
    store = Store()
    assert plan_of(store, "first") is None
    with pytest.raises(UsageError, match=r"plan name '\.\./b' cannot be used"):
        plan_of(store, "../b")
    store.put("reviews/_plans/first.json", b"{}", "application/json")
    with pytest.raises(RecordDamaged, match=r"reviews/_plans/first\.json is damaged"):
        plan_of(store, "first")


def test_a_name_that_is_no_name_is_refused():
    with pytest.raises(ValidationError):
        plan("_plans/x")
