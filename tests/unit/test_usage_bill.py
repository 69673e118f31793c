"""Bills: exact, by lists of which one is valid a day, and told from the events, each of which counts once."""

import csv
import io
import json
import re
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pydantic import SecretStr
from standins import Store
from test_usage import metered, written
from typer.testing import CliRunner

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.records.asked import BatchControl
from dermbatch.records.row import row_of
from desk.desk import Person
from desk.pages.pages import environment
from orchestrator.cli import options
from orchestrator.cli.program import application
from orchestrator.metering.accounts import Accounts
from orchestrator.metering.bill import bill, total
from orchestrator.metering.overview import overview
from orchestrator.metering.prices import Prices, load_prices
from orchestrator.metering.reading import Counted, count, standing
from orchestrator.metering.signature import ReportSignature, kept_key, public_of, signing_key, wrong
from orchestrator.metering.used import UNITS, Used
from orchestrator.reporting.closing import close
from tests import outcome_samples
from workers.process import usage

LISTS = """
    currency: EUR
    lists:
      - name: early
        from: 2026-01-01
        until: 2026-03-02
        prices: {images: 0.02}
      - name: late
        from: 2026-03-02
        prices: {images: 0.03, gpu_seconds: 0.0007, gigabytes_read: "0.1"}
      - name: clinic
        tenant: clinic-a
        from: 2026-03-01
        until: 2026-04-01
        prices: {images: 0.01}
"""


@pytest.fixture
def lists(tmp_path):
    def made(text=LISTS):
        path = tmp_path / "prices.yaml"
        path.write_text(dedent(text))
        return path

    return made


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr("orchestrator.metering.events.EVENTS_A_FILE", 3)
    return Store()


# Price lists


def test_a_tenants_own_list_is_its_and_that_of_all_is_the_others(lists):
    prices = load_prices(lists())
    names = {
        (tenant, day): getattr(prices.of(tenant, date.fromisoformat(day)), "name", None)
        for tenant in ("clinic-a", "default")
        for day in ("2025-12-31", "2026-03-01", "2026-03-02", "2026-04-01")
    }
    assert list(names.values()) == [None, "clinic", "clinic", "late", None, "early", "late", "late"]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "until: 2026-03-02",
            "until: 2026-03-03",
            "'early' and 'late' both say what is paid on 2026-03-02: end one",
        ),
        ("        until: 2026-03-02\n", "", "'early' and 'late' both say what is paid on 2026-03-02"),
        ("from: 2026-01-01", "from: 2026-03-02", "'early' ends before it begins"),
        ("gpu_seconds", "gpu_second", "there is no item gpu_second; there are images, "),
        ("0.0007", "-1", "greater than or equal to 0"),
        ("0.0007", ".nan", "finite"),
        ("EUR", "euro", "currency"),
        ("        prices: {images: 0.01}", "        price: {images: 0.01}", "lists.2.price"),
        ("    currency: EUR", "    currency: [", "are not YAML, line"),
    ],
)
def test_lists_that_cannot_be_are_refused_in_one_sentence(lists, old, new, complaint):
    assert old in LISTS
    with pytest.raises(UsageError, match=f"(?s)^the price lists .*{re.escape(complaint)}"):
        load_prices(lists(LISTS.replace(old, new)))


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_prices(tmp_path / "none.yaml")


# Money


def test_an_amount_is_rounded_once_a_line_half_to_even_and_a_total_is_its_lines():
    prices = Prices.model_validate(
        {"currency": "EUR", "lists": [{"name": "a", "from": "2026-01-01", "prices": {"images": "0.005"}}]}
    )
    days = {
        ("a", "2026-03-01"): Used(images=1),
        ("b", "2026-03-01"): Used(images=3),
        ("b", "2026-03-02"): Used(images=2),
    }
    lines = bill(days, prices)
    assert [(line.tenant, line.quantity, line.amount) for line in lines] == [
        ("a", 1, Decimal("0.00")),
        ("b", 5, Decimal("0.02")),
    ]
    assert total(lines) == Decimal("0.02")


def test_lists_of_one_name_are_each_their_tenants():
    prices = Prices.model_validate(
        {
            "currency": "EUR",
            "lists": [
                {"name": 2026, "from": "2026-01-01", "tenant": "clinic-a", "prices": {"images": "0.01"}},
                {"name": 2026, "from": "2026-01-01", "prices": {"images": "1"}},
            ],
        }
    )
    for tenants in (("clinic-a", "clinic-b"), ("clinic-b", "clinic-a")):
        lines = bill({(tenant, "2026-03-01"): Used(images=100) for tenant in tenants}, prices)
        billed = [(line.tenant, line.prices, line.amount) for line in lines]
        assert billed == [("clinic-a", "2026", Decimal("1.00")), ("clinic-b", "2026", Decimal("100.00"))]


def test_the_lists_of_the_document_are_lists(lists):
    text = (Path(__file__).parents[2] / "docs" / "usage.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert [one.name for one in load_prices(lists(example)).lists] == ["2026", "2026, clinic-a"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(UNITS)), st.integers(0, 10**15)), min_size=1, max_size=30))
def test_a_bill_does_not_depend_on_the_order_of_what_is_added(parts):
    prices = Prices.model_validate(
        {
            "currency": "EUR",
            "lists": [{"name": "a", "from": "2026-01-01", "prices": dict.fromkeys(UNITS, "0.0123")}],
        }
    )

    def billed(order):
        days = {("a", "2026-03-01"): Used()}
        for item, quantity in order:
            days["a", "2026-03-01"][item] += quantity
        return bill(days, prices)

    assert billed(parts) == billed(sorted(parts)) == billed(reversed(parts))


def test_without_lists_there_is_no_money_and_what_has_no_price_has_no_amount():
    days = {("a", "2026-03-01"): Used(images=1, purify_seconds=2_500_000)}
    assert [(line.item, line.quantity, line.amount) for line in bill(days, None)] == [
        ("images", 1, None),
        ("purify_seconds", Decimal("2.5"), None),
    ]


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
    @contextmanager
    def results(home):
        yield store

    monkeypatch.setattr(options, "results", results)
    monkeypatch.delenv("DERMBATCH_METERING__PRICES", raising=False)
    return lambda *words: CliRunner().invoke(application(["usage"]), ["usage", *map(str, words)])


def test_a_months_sum_is_shown_to_the_cent(store, batch, command, lists):
    found = command("--month", "2026-03", "--prices", lists(), "--csv")
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
    shown = command("--prices", lists())
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


def test_days_without_a_list_are_said(store, batch, command, lists):
    found = command("--prices", lists(LISTS.replace("from: 2026-03-02", "from: 2026-05-02")))
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


# Reports


KEY = SecretStr("ab" * 32)
NO_ACCOUNTS = Accounts()


def closed(store, tmp_path, batch, accounts=NO_ACCOUNTS):
    """Close a batch of eight results."""
    outcome_samples.write_manifest(store, batch, map(outcome_samples.entry_of, range(8)))
    for index in range(8):
        outcome_samples.write_record(store, metered("b", index))
    assert close(store, batch, "finished", 1, 1, accounts=accounts).summary.done == 8
    return store.objects["results", layout.report("b")].decode()


def verified(store, public=None, batch="b"):
    body = store.objects["results", layout.report_signature("b")]
    signature = ReportSignature.model_validate_json(body)
    return wrong(signature, batch, lambda key: store.get("results", key), public or public_of(KEY))


def test_a_report_has_costs_and_seconds_an_image(store, tmp_path, lists):
    page = closed(store, tmp_path, outcome_samples.batch_of("b", 8), Accounts(load_prices(lists())))
    section = re.sub(r"<[^>]+>", " ", page[page.index('id="usage"') : page.index("<h2>Models")]).split()
    shown = " ".join(section)
    assert "2026-03 images 8 1 late 0.03 0.24 0.03" in shown
    assert "2026-03 purify seconds 2 0.25 late" in shown
    assert "2026-03 gpu seconds 4 0.5 late 0.0007 0.00 0.00" in shown
    assert "All of tenant default 0.24 0.03" in shown
    assert ("results", layout.report_signature("b")) not in store.objects


def test_a_report_that_is_signed_is_known_and_closing_again_signs_the_same(store, tmp_path):
    batch = outcome_samples.batch_of("b", 8)
    accounts = Accounts(key=signing_key(KEY))
    closed(store, tmp_path, batch, accounts)
    assert verified(store) == []
    first = store.objects["results", layout.report_signature("b")]
    closed(store, tmp_path, batch, accounts)
    assert store.objects["results", layout.report_signature("b")] == first
    closed(store, tmp_path, batch)
    assert ("results", layout.report_signature("b")) not in store.objects


@pytest.fixture
def signed_report(store, tmp_path):
    closed(store, tmp_path, outcome_samples.batch_of("b", 8), Accounts(key=signing_key(KEY)))
    return store


def test_what_speaks_against_a_signature_is_said(signed_report):
    store = signed_report
    report, sig = ("results", layout.report("b")), ("results", layout.report_signature("b"))
    kept = dict(store.objects)
    assert verified(store, public_of(SecretStr("cd" * 32)))[0].startswith("it is signed with another key")
    assert verified(store, batch="c") == [
        "it is the signature of batch b",
        "it does not say what the report was",
    ]
    store.objects[report] += b" "
    assert verified(store) == ["batches/b/report.html is not what was signed"]
    del store.objects[report]
    assert verified(store) == ["batches/b/report.html is gone"]
    store.objects.update(kept)
    signature = json.loads(store.objects[sig])
    for change in ({"signature": "00" * 64}, {"signature": "x"}, {"public_key": "zz"}, {"files": {}}):
        store.objects[sig] = json.dumps(signature | change).encode()
        assert any("does not hold" in sentence for sentence in verified(store)), change


def test_the_command_says_whether_a_report_is_what_was_signed(signed_report, command, monkeypatch, tmp_path):
    store = signed_report
    run = lambda *words: CliRunner().invoke(application(["report"]), ["report", *map(str, words)])  # noqa: E731
    home = ("--home", tmp_path)
    assert "give --public-key" in run("verify", "b", *home).output
    assert isinstance(run("key", *home).exception, UsageError)
    monkeypatch.setenv("DERMBATCH_METERING__SIGNING_KEY", KEY.get_secret_value())
    public = run("key", *home).output.strip()
    assert run("verify", "b", *home).output == f"b: as signed with key {public}\n"
    folder = tmp_path / "out"
    for name in (layout.report("b"), layout.report_signature("b")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(store.objects["results", name])
    assert run("verify", "b", "--folder", folder, *home).exit_code == 0
    (folder / layout.report("b")).write_text("another")
    assert run("verify", "b", "--folder", folder, *home).exit_code == 1
    del store.objects["results", layout.report_signature("b")]
    ended = run("verify", "b", *home)
    assert ended.exit_code == 1
    assert "it was never signed" in ended.output


def test_a_key_that_a_kill_left_empty_is_made(tmp_path):
    (tmp_path / "report-signing.key").touch()
    assert len(public_of(kept_key(tmp_path))) == 64
    assert [path.name for path in tmp_path.iterdir()] == ["report-signing.key"]


def test_a_key_of_a_home_is_made_once_and_is_its_owners_alone(tmp_path):
    first = kept_key(tmp_path)
    assert kept_key(tmp_path) == first
    assert (tmp_path / "report-signing.key").stat().st_mode & 0o777 == 0o600
    assert len(public_of(first)) == 64
    with pytest.raises(UsageError, match="SIGNING_KEY is not a key: 64 hexadecimal digits"):
        signing_key(SecretStr("short"))


# The page


def test_a_page_shows_what_was_said_at_closing_to_the_cent(store, batch, lists):
    store.put(layout.control("new"), b"{}", "")
    found = overview(store, lists())
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


def test_a_tenant_is_told_nothing_of_others_price_lists(store, batch, lists):
    wrong = lists(LISTS.replace("until: 2026-03-02", "until: 2026-03-03"))
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


def test_a_months_sum_from_raw_events_is_the_one_that_is_shown_to_the_cent(store, command, lists, tmp_path):
    for name, tenant, images in (
        ("clinic-a.one", "clinic-a", 17),
        ("clinic-a.two", "clinic-a", 5),
        ("clinic-b.one", "clinic-b", 11),
    ):
        batch = outcome_samples.batch_of(name, images, tenant=tenant)
        (tmp_path / name).mkdir()
        written(tmp_path / name, store, batch, [odd(name, index) for index in range(images)])
    prices = "".join(f"\n          {item}: '{price}'" for item, price in EVERY_ITEM.items())
    path = lists(f"""
    currency: EUR
    lists:
      - name: all
        from: 2026-01-01
        prices:{prices}
    """)
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
