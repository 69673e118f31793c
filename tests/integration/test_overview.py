import io
import json
from datetime import timedelta

import pytest
from rich.console import Console

from dermbatch import layout
from dermbatch.errors import StackError, UsageError
from dermbatch.ledger import Ledger
from dermbatch.records.asked import BatchControl, ImageJob, PlanRecord
from dermbatch.settings import LedgerSettings, RedisSettings
from dermbatch.store import ObjectStore
from orchestrator.cli.tables.overview import rendered
from orchestrator.cli.tables.progress import follow
from orchestrator.reporting import progress
from orchestrator.reporting.closing import close
from orchestrator.reporting.overview import as_json, overview, standing
from tests.outcome_samples import (
    CREATED,
    batch_of,
    entry_of,
    failure_of,
    result_of,
    write_manifest,
    write_record,
)


@pytest.fixture
def store(empty_store):
    return ObjectStore(empty_store)


@pytest.fixture
def ledger(empty_redis):
    return Ledger(empty_redis, LedgerSettings())


def closed_batch(store, name, **changes):
    batch = batch_of(name, 2, **changes)
    write_manifest(store, batch, map(entry_of, range(2)))
    write_record(store, result_of(name, 0))
    write_record(store, failure_of(name, 1))
    return close(store, batch, "finished", 1, 2).summary


def job(batch, index):
    return ImageJob(
        batch=batch.name,
        index=index,
        name="n",
        source="s3://incoming/b/0",
        order=batch.order,
    )


def text(shown, *, terminal=False):
    console = Console(file=io.StringIO(), width=300, force_terminal=terminal, color_system=None)
    console.print(rendered(shown, console))
    return console.file.getvalue()


def test_open_closed_planned_and_unknown_batches_each_have_their_state(store, ledger):
    closed_batch(store, "ended")
    opened = batch_of("opened", 100, lane="live", weight=3)
    ledger.batches.open(opened)
    ledger.batches.refuse("opened", 7, "truncated")
    ledger.batches.note_rate("opened", 4.5, 22.0)
    halted = batch_of("halted", 10)
    ledger.batches.open(halted, BatchControl(state="paused", why="half of it failed"))
    write_manifest(store, batch_of("lost", 3), map(entry_of, range(3)))
    asked = batch_of("planned", 0).model_dump(include={"name", "created", "order", "software"})
    plan = PlanRecord(**asked, inputs=("s3://bucket/",), images=2000)
    store.put(layout.plan_record("planned"), plan.to_json(), "application/json")
    ledger.slots.report("w/1")
    shown = overview(store, ledger)
    by_name = {one.name: one for one in shown.batches}
    assert {name: one.state for name, one in by_name.items()} == {
        "opened": "open",
        "halted": "paused",
        "lost": "waiting",
        "planned": "planning",
        "ended": "finished",
    }
    assert shown.batches[-1].name == "ended"
    assert (shown.slots, shown.oldest_live) == (1, None)
    one = by_name["opened"]
    assert (one.lane, one.weight, one.images, one.done, one.failed) == ("live", 3, 100, 0, 1)
    assert (one.rate, one.seconds_left) == (4.5, 22.0)
    assert one.reasons == {"truncated": 1}
    assert by_name["planned"].images == 2000
    assert by_name["ended"].rate == pytest.approx(1)
    lines = text(shown).splitlines()
    assert lines[1].split()[:3] in (["halted", "paused:", "half"], ["opened", "open", "live"])
    assert any("truncated 1" in line and "22 s" in line and "live x3" in line for line in lines)
    assert lines[-1] == "worker slots: 1; live images: none waits"
    assert "half of it failed" in text(shown, terminal=True)
    told = json.loads(as_json(shown))
    assert {one["name"] for one in told["batches"]} == set(by_name)
    assert told["batches"][-1]["reasons"] == {"truncated": 1}


def test_only_the_batches_that_closed_last_are_listed_unless_all_are_asked_for(store, ledger):
    summary = closed_batch(store, "b")
    for number in range(24):
        later = summary.model_copy(update={"name": f"b{number:02d}", "closed": CREATED - timedelta(days=number)})
        store.put(layout.summary(later.name), later.to_json(), "application/json")
    shown = overview(store, ledger)
    assert [one.name for one in shown.batches] == ["b", *(f"b{number:02d}" for number in range(19))]
    assert shown.left_out == 5
    assert "5 older batches are not shown" in text(shown)
    assert len(overview(store, ledger, everything=True).batches) == 25


def test_one_batch_is_shown_and_an_unknown_one_is_a_usage_error(store, ledger):
    closed_batch(store, "ended")
    ledger.batches.open(batch_of("opened", 5))
    assert [one.state for one in standing(store, ledger, "ended").batches] == ["finished"]
    assert [one.state for one in standing(store, ledger, "opened").batches] == ["open"]
    with pytest.raises(UsageError, match="no batch 'none'"):
        standing(store, ledger, "none")
    with pytest.raises(UsageError, match="cannot be used"):
        standing(store, ledger, "../up")


def test_following_ends_with_the_summary_and_not_before_it_is_there(store, ledger):
    batch = batch_of("b", 2)
    ledger.batches.open(batch)
    looks = []

    def check(state):
        looks.append(None)
        if len(looks) == 2:
            ledger.batches.refuse("b", 0, "truncated")
            ledger.batches.refuse("b", 1, "truncated")
        if len(looks) == 3:
            ledger.batches.forget("b")  # as a flush does; an orchestrator would restore it
        if len(looks) == 4:
            closed_batch(store, "b")

    console = Console(file=io.StringIO(), force_terminal=True)
    summary = follow(ledger, store, batch, console, check)
    assert (summary.done, summary.failed) == (1, 1)
    assert len(looks) == 4
    assert "2 failed" in console.file.getvalue()


def test_following_ends_where_redis_stays_away(store, monkeypatch):
    monkeypatch.setattr(progress, "_OUTAGE", 0.0)
    gone = Ledger(RedisSettings(url="redis://127.0.0.1:1/0"), LedgerSettings())
    with pytest.raises(StackError, match="Redis has not answered"):
        follow(gone, store, batch_of("b", 1), Console(file=io.StringIO()), lambda: None)
