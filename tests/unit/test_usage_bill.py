"""Usage as it is shown: computed from events, each of which counts once, and exact to the cent."""

import csv
import io
import json
import re
from decimal import Decimal
from fractions import Fraction

import pytest
from billed import LISTS, as_home, closed, metered, price_file, written
from prometheus_client import REGISTRY
from standins import Store
from typer.testing import CliRunner

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.records.asked import BatchControl
from dermbatch.records.row import row_of
from desk.desk import Person
from desk.pages.pages import environment
from orchestrator.cli.program import application
from orchestrator.metering.accounts import Accounts
from orchestrator.metering.overview import overview
from orchestrator.metering.prices import load_prices
from orchestrator.metering.reading import Counted, count, standing
from orchestrator.metering.used import UNITS
from tests import outcome_samples
from workers.process import usage


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr("orchestrator.metering.events.EVENTS_A_FILE", 3)
    return Store()


# Events


def counted(store, **changes):
    complaints, found = [], Counted()
    for manifest in standing(store).manifests:
        count(store, manifest, found, complaints.append, **changes)
    return found, complaints


@pytest.fixture
def batch(store, tmp_path):
    """Eight results of one day, in three files."""
    batch = outcome_samples.batch_of("b", 8)
    written(tmp_path, store, batch, [metered("b", index) for index in range(8)])
    return batch


def file_of(store, number):
    key = [key for key in store.keys("^usage/") if key.endswith(".jsonl")][number]
    return ("results", key)


def test_what_is_recomputed_from_events_is_what_was_said_at_closing(store, batch):
    found, complaints = counted(store)
    (manifest,) = standing(store).manifests
    assert {day: dict(used) for (_, day), used in found.days.items()} == manifest.days
    assert (found.events, found.repeated, found.wrong, complaints) == (8, 0, 0, [])


def test_events_that_are_replayed_count_once(store, batch):
    before, _ = counted(store)
    store.objects[file_of(store, 0)] *= 2
    found, complaints = counted(store)
    assert found.days == before.days
    assert (found.events, found.repeated) == (8, 3)
    assert "was changed: 6 lines are there, and 3 were written" in complaints[0]


def test_events_that_are_cut_off_are_said_and_the_others_count(store, batch):
    where = file_of(store, 1)
    store.objects[where] = store.objects[where][:-40]
    found, complaints = counted(store)
    assert found.events == 7
    assert "is cut off: 2 lines are there, and 3 were written" in complaints[0]
    assert complaints[1:] == ["usage of batch b: its events do not add up to what was noted when it closed"]


def test_a_file_of_events_that_is_gone_is_said(store, batch):
    del store.objects[file_of(store, 2)]
    found, complaints = counted(store)
    assert (found.events, found.wrong) == (6, 2)
    assert "with 2 events is gone" in complaints[0]


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other/20260302T080000.000000Z/0"},
        {"subject": "clinic-a"},
        {"source": "/dermbatch/batches/other"},
    ],
)
def test_events_of_others_do_not_count(store, batch, change):
    where = file_of(store, 0)
    first, *rest = store.objects[where].splitlines(keepends=True)
    store.objects[where] = json.dumps(json.loads(first) | change).encode() + b"\n" + b"".join(rest)
    found, complaints = counted(store)
    assert found.events == 7
    assert "another batch or tenant" in complaints[1]


@pytest.mark.parametrize("line", [b"[]\n", b"{}\n", b'{"data": 1}\n', b"\xff\n", b"\n"])
def test_lines_that_are_no_events_are_said(store, batch, line):
    store.objects[file_of(store, 0)] += line
    found, complaints = counted(store)
    assert found.events == 8
    assert complaints[1] == "usage of batch b: a line is not an event"


def test_batches_without_events_and_open_ones_are_known(store, batch):
    store.put(layout.summary("old"), b"{}", "")
    store.put(layout.batch_record("new"), b"{}", "")
    store.put(layout.control("new"), BatchControl().to_json(), "")
    store.put(layout.usage_manifest("torn", batch.created), b"{", "")
    found = standing(store)
    assert ([one.batch for one in found.manifests], found.open, found.uncounted) == (["b"], 1, ("old",))
    assert found.damaged == (layout.usage_manifest("torn", batch.created),)


# The command


@pytest.fixture
def command(store, monkeypatch):
    as_home(store, monkeypatch)
    monkeypatch.delenv("DERMBATCH_METERING__PRICES", raising=False)
    return lambda *words: CliRunner().invoke(application(["usage"]), ["usage", *map(str, words)])


def test_a_months_sum_is_shown_to_the_cent(store, batch, command, tmp_path):
    found = command("--month", "2026-03", "--prices", price_file(tmp_path), "--csv")
    assert found.exit_code == 0
    rows = list(csv.DictReader(io.StringIO(found.stdout)))
    assert [(row["item"], row["quantity"], row["price"], row["amount"]) for row in rows][:3] == [
        ("images", "8", "0.03", "0.24"),
        ("purify_seconds", "2", "", ""),
        ("segment_seconds", "2", "", ""),
    ]
    assert [row["amount"] for row in rows if row["item"] == "gpu_seconds"] == ["0.00"]
    assert {(row["tenant"], row["month"], row["prices"], row["currency"]) for row in rows} == {
        ("default", "2026-03", "late", "EUR")
    }
    shown = command("--prices", price_file(tmp_path))
    assert "Usage: 0.24 EUR" in shown.stdout
    assert command("--month", "2026-04", "--csv").stdout.count("\n") == 1
    assert command("--tenant", "clinic-a", "--csv").stdout.count("\n") == 1


def test_what_is_wrong_ends_with_1_and_is_mended_from_the_records(store, batch, command):
    outcome_samples.write_manifest(store, batch, map(outcome_samples.entry_of, range(8)))
    for index in range(8):
        outcome_samples.write_record(store, metered("b", index))
    before = {key: body for key, body in store.objects.items() if key[1].startswith("usage/")}
    del store.objects[file_of(store, 0)]
    assert command().exit_code == 1
    assert "is not closed" in str(command("--rewrite", "b").exception)
    store.put(layout.summary("b"), SUMMARY, "")
    assert command("--rewrite", "b").exit_code == 0
    assert {key: body for key, body in store.objects.items() if key[1].startswith("usage/")} == before


def test_days_without_a_list_are_said(store, batch, command, tmp_path):
    found = command("--prices", price_file(tmp_path, LISTS.replace("from: 2026-03-02", "from: 2026-05-02")))
    assert found.exit_code == 1
    assert "no price list is valid for 1 days of a tenant (default 2026-03-02)" in found.output


@pytest.mark.parametrize("month", ["2026", "2026-13", "march"])
def test_a_month_that_is_none_is_refused(command, month):
    assert isinstance(command("--month", month).exception, UsageError)


SUMMARY = json.dumps(
    {
        "name": "b",
        "images": 8,
        "done": 8,
        "failed": 0,
        "reasons": {},
        "created": "2026-03-02T08:00:00Z",
        "closed": "2026-03-02T09:00:00Z",
        "stage_seconds": {},
        "stage_runs": {},
        "image_seconds": 0,
        "slots": 1,
        "software": "0.2.0",
    }
).encode()


def test_a_report_has_costs_and_seconds_an_image(store, tmp_path):
    page = closed(store, outcome_samples.batch_of("b", 8), Accounts(load_prices(price_file(tmp_path))))
    section = re.sub(r"<[^>]+>", " ", page[page.index('id="usage"') : page.index("<h2>Models")]).split()
    shown = " ".join(section)
    assert "2026-03 images 8 1 late 0.03 0.24 0.03" in shown
    assert "2026-03 purify seconds 2 0.25 late" in shown
    assert "2026-03 gpu seconds 4 0.5 late 0.0007 0.00 0.00" in shown
    assert "All of tenant default 0.24 0.03" in shown
    assert ("results", layout.report_signature("b")) not in store.objects


# The page


def test_a_page_shows_what_was_said_at_closing_to_the_cent(store, batch, tmp_path):
    store.put(layout.control("new"), b"{}", "")
    found = overview(store, price_file(tmp_path))
    assert found.sums == (("2026-03", "default", Decimal("0.24")),)
    assert (found.currency, found.open, found.problems) == ("EUR", 1, ())
    page = (
        environment()
        .get_template("usage.html")
        .render(found=found, person=Person("ada", "t"), version="1", page="usage")
    )
    shown = re.sub(r"<[^>]+>", " ", page)
    assert re.search(r"2026-03 +default +images +8 +late +0\.03 +0\.24", shown)
    assert "1 batch is open" in shown


def test_price_lists_that_cannot_be_are_said_on_the_page_and_quantities_are_shown(store, batch, tmp_path):
    store.put(layout.summary("old"), b"{}", "")
    found = overview(store, tmp_path / "none.yaml")
    assert "cannot be read" in found.problems[0]
    assert "1 batches have no usage" in found.problems[1]
    assert (found.sums, found.currency) == ((), "")
    assert found.lines[0].quantity == 8


def test_a_tenant_is_told_nothing_of_others_price_lists(store, batch, tmp_path):
    wrong = price_file(tmp_path, LISTS.replace("until: 2026-03-02", "until: 2026-03-03"))
    assert "'early' and 'late' both say" in overview(store, wrong).problems[0]
    (problem,) = overview(store, wrong, "clinic-b").problems
    assert problem == "the price lists cannot be read: ask whoever runs this system"


def test_workers_count_what_results_are_billed_for():
    def value(name, **labels):
        return REGISTRY.get_sample_value(f"dermbatch_usage_{name}_total", {"tenant": "counted", **labels})

    usage.count(row_of(metered("b", 1)), "counted")
    assert value("images") == 1
    assert value("stage_seconds", stage="purify") == 0.25
    assert value("model_seconds", device="gpu") == 0.5
    assert (value("bytes", kind="read"), value("bytes", kind="stored")) == (1001, 0)


# The month as a whole


EVERY_ITEM = {item: Decimal(n + 1) * Decimal("0.0137") for n, item in enumerate(UNITS)}


def odd(batch, index):
    """A result whose seconds and bytes come to no round sums."""
    record = metered(batch, index)
    stages = {
        stage: one.model_copy(update={"seconds": 7.123457 * (index + 3) % 11, "model_seconds": 1.000003 * index})
        for stage, one in record.stages.items()
    }
    return record.model_copy(
        update={"stages": stages, "usage": record.usage.model_copy(update={"bytes_read": 98765431 * index})}
    )


def from_raw_lines(store, tenant):
    """A month's sum by the price of each item, told from the lines alone, by fractions: nothing of ours counts."""
    used = dict.fromkeys(UNITS, Fraction())
    for key in store.keys(r"^usage/.*\.jsonl$"):
        for line in store.objects["results", key].splitlines():
            event = json.loads(line, parse_float=str)
            if event["subject"] != tenant or not event["time"].startswith("2026-03"):
                continue
            data = event["data"]
            used["images"] += 1
            for stage, seconds in data["stage_seconds"].items():
                used[f"{stage}_seconds"] += Fraction(seconds)
            for stage, seconds in data["model_seconds"].items():
                used[f"{data['device'][stage]}_seconds"] += Fraction(seconds)
            for what in ("read", "stored"):
                used[f"gigabytes_{what}"] += Fraction(data[f"bytes_{what}"], 10**9)
    cents = sum(round(used[item] * Fraction(price) * 100) for item, price in EVERY_ITEM.items())
    return Decimal(cents) / 100


def test_a_months_sum_from_raw_events_is_the_one_that_is_shown_to_the_cent(store, command, tmp_path):
    for name, tenant, images in (
        ("clinic-a.one", "clinic-a", 17),
        ("clinic-a.two", "clinic-a", 5),
        ("clinic-b.one", "clinic-b", 11),
    ):
        batch = outcome_samples.batch_of(name, images, tenant=tenant)
        (tmp_path / name).mkdir()
        written(tmp_path / name, store, batch, [odd(name, index) for index in range(images)])
    prices = "".join(f"\n          {item}: '{price}'" for item, price in EVERY_ITEM.items())
    path = price_file(
        tmp_path,
        f"""
    currency: EUR
    lists:
      - name: all
        from: 2026-01-01
        prices:{prices}
    """,
    )
    shown = {tenant: amount for _, tenant, amount in overview(store, path).sums}
    assert shown.keys() == {"clinic-a", "clinic-b"}
    for tenant, amount in shown.items():
        assert amount == from_raw_lines(store, tenant)
        rows = csv.DictReader(
            io.StringIO(command("--month", "2026-03", "--tenant", tenant, "--prices", path, "--csv").stdout)
        )
        assert sum(Decimal(row["amount"]) for row in rows) == amount
        own = overview(store, path, tenant)
        assert own.sums == (("2026-03", tenant, amount),)
        assert {line.tenant for line in own.lines} == {tenant}
