"""Price lists and money: which list is valid on which day, and bills that are exact."""

import re
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from billed import LISTS, price_file
from hypothesis import given, settings
from hypothesis import strategies as st

from dermbatch.errors import UsageError
from orchestrator.metering.bill import bill, total
from orchestrator.metering.prices import Prices, load_prices
from orchestrator.metering.used import UNITS, Used


def test_a_tenants_own_list_is_its_and_that_of_all_is_the_others(tmp_path):
    prices = load_prices(price_file(tmp_path))
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
def test_lists_that_cannot_be_are_refused_in_one_sentence(old, new, complaint, tmp_path):
    assert old in LISTS
    with pytest.raises(UsageError, match=f"(?s)^the price lists .*{re.escape(complaint)}"):
        load_prices(price_file(tmp_path, LISTS.replace(old, new)))


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_prices(tmp_path / "none.yaml")


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


def test_the_lists_of_the_document_are_lists(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "usage.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert [one.name for one in load_prices(price_file(tmp_path, example)).lists] == ["2026", "2026, clinic-a"]


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
