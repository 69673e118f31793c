import json
import re
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from dermbatch.images.lesion import dice
from dermbatch.records.outcome import BorderMeasures
from dermbatch.records.row import opened, row_of, sealed, sent
from dermbatch.stages import Stage
from orchestrator.batches.outcomes import OutcomeMarks, in_order
from orchestrator.batches.summary import Spread, Tally
from orchestrator.cli.tables.progress import duration
from orchestrator.reporting import listing
from orchestrator.reporting.listing import ListedResults
from orchestrator.reporting.report import SHOWN, Distribution, Report
from orchestrator.reporting.table.columns import rows_of
from tests.outcome_samples import batch_of, failure_of, result_of


@cache
def plain(index):
    """A result without preview and flags; to make one costs more than to report it."""
    return result_of("b", index, preview=b"")


@cache
def flagged(index, flags):
    return plain(index).model_copy(update={"flags": flags})


@cache
def row(index, flags):
    """The row of such a result, as it is sent."""
    return sent(row_of(flagged(index, flags)))


def page_of(records, *, state="finished", rows=None, **changes):
    """The report of a batch of these records, and of their rows where they are at hand."""
    records = list(records)
    rows = rows or [sent(row_of(record)) for record in records]
    batch = batch_of("b", len(records), **changes)
    report, tally = Report(batch), Tally()
    for start in range(0, len(records), 90):
        some = rows_of(rows[start : start + 90])
        report.add(some)
        tally.add(some)
    return report.html(tally, state, {index: records[index] for index in report.wanted}).decode()


def shown(page):
    return [int(index) for index in re.findall(r'<article data-name="folder/(\d+)\.jpg"', page)]


def test_a_small_batch_is_shown_whole_and_in_order():
    page = page_of(flagged(i, ("no_lesion",) if i % 2 else ()) for i in range(SHOWN))
    assert shown(page) == list(range(SHOWN))
    assert "sampled" not in page


@pytest.mark.parametrize(("flagged_every", "flagged_shown"), [(1, SHOWN), (2, SHOWN // 2), (100, 10), (None, 0)])
def test_of_a_large_batch_flagged_images_come_first_and_others_have_their_places(flagged_every, flagged_shown):
    flags = [("no_lesion",) if flagged_every and i % flagged_every == 0 else () for i in range(1000)]
    page = page_of((flagged(i, flags[i]) for i in range(1000)), rows=[row(i, flags[i]) for i in range(1000)])
    cards = shown(page)
    assert len(cards) == len(set(cards)) == SHOWN
    assert [bool(flags[i]) for i in cards] == [True] * flagged_shown + [False] * (SHOWN - flagged_shown)
    assert max(cards) > 900
    assert min(cards) < 100
    assert f"{SHOWN} of 1,000 results are shown" in page


def listed(page):
    return json.loads(re.search(r'<script type="application/json" id="rows">(.*?)</script>', page, re.DOTALL)[1])


def test_all_results_are_listed_in_order_with_their_probabilities_and_flags():
    flags = {3: ("no_lesion", "touches_frame")}
    records = [flagged(i, flags.get(i, ())) for i in range(SHOWN + 100)]
    records[1] = failure_of("b", 1)
    records[2] = records[2].model_copy(update={"name": "</script><b>\u2028皮膚"})
    rows = listed(page_of(records))
    assert [row[0] for row in rows] == [i for i in range(SHOWN + 100) if i != 1]
    assert rows[1] == [2, "</script><b>\u2028皮膚", [0.2, 0.7, 0.1], []]
    assert rows[2] == [3, "folder/000003.jpg", [0.2, 0.7, 0.1], [0, 1]]


def test_a_listing_ends_with_those_of_the_lowest_indices_in_whatever_order_they_come(monkeypatch):
    monkeypatch.setattr(listing, "LISTED", 20)
    tables = [
        rows_of([sent(row_of(result_of("b", i))) for i in range(start, start + 15)]) for start in range(0, 90, 15)
    ]
    found = []
    for order in (tables, tables[::-1]):
        gathered = ListedResults()
        for table in order:
            gathered.add(table)
        found.append(gathered.json(["nevus"], []))
    assert found[0] == found[1]
    assert [row[0] for row in json.loads(found[0])] == list(range(20))


def test_the_same_outcomes_give_the_same_page():
    def records():
        return (plain(i) for i in range(600))

    assert page_of(records()) == page_of(records())


def test_names_are_escaped_and_nothing_is_asked_of_a_network():
    record = result_of("b", 0).model_copy(update={"name": '<script>alert("x")</script>'})
    failure = failure_of("b", 1).model_copy(update={"name": "<b>", "message": "<i>"})
    page = page_of([record, failure])
    assert "<script>alert" not in page
    assert "<i>" not in page.replace('<i style="', "")
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []


def test_an_image_without_a_preview_has_a_card_without_a_picture():
    page = page_of([result_of("b", 0, preview=b"")])
    assert shown(page) == [0]
    assert "<img" not in page


def test_a_border_map_is_said_by_sector_and_named_below_the_picture():
    record = result_of("b", 0)
    segmented = record.stages[Stage.SEGMENT]
    border = BorderMeasures(
        sharpness=(0.9, 0.9, 0.25, 0.9, 0.9, 0.9, 0.9, 0.9), irregularity=(0.01,) * 7 + (0.12,)
    )
    output = segmented.output.model_copy(update={"border": border})
    told = segmented.model_copy(update={"output": output})
    page = page_of([record.model_copy(update={"stages": {**record.stages, Stage.SEGMENT: told}})])
    assert "<dt>border sharpness</dt><dd>0.25 to 0.90, least at the right</dd>" in page
    assert "<dt>outline wavers</dt><dd>by 12.0% of the radius top left</dd>" in page
    assert "<span>lesion, border zone</span>" in page
    assert "border zone" not in page_of([record])


def test_failures_are_counted_by_reason_however_many_there_are():
    page = page_of(failure_of("b", i, "truncated" if i % 3 else "corrupt") for i in range(3000))
    assert '<code class="bad">truncated</code></td><td class="n">2,000' in page
    assert f"The first {SHOWN} of 3,000 are shown" in page


@given(st.lists(st.floats(0, 1), min_size=1))
def test_every_value_falls_into_one_bin(values):
    spread = Distribution("x")
    for start in range(0, len(values), 4):
        spread.add(values[start : start + 4])
    assert sum(count for _, count, _ in spread.bars) == spread.count == len(values)
    assert max(height for _, _, height in spread.bars) == 1


@given(st.lists(st.floats(1e-3, 1e4), min_size=1), st.sampled_from([0.5, 0.95]))
def test_quantiles_are_right_to_the_width_of_a_bin(values, share):
    spread = Spread()
    spread.add(values[:3])
    spread.add(values[3:])
    exact = np.quantile(values, share, method="inverted_cdf")
    assert spread.quantile(share) == pytest.approx(exact, rel=0.1)
    assert spread.mean == pytest.approx(np.mean(values))


@given(st.lists(st.sampled_from(["none", "failed", "done", "both"])))
def test_marks_tell_what_is_there(states):
    marks = OutcomeMarks(len(states))
    for index, state in enumerate(states):
        if state in {"done", "both"}:
            marks.set(index, done=True)
        if state in {"failed", "both"}:
            marks.set(index, done=False)
    marks.set(len(states), done=True)  # a record that belongs to no image of the batch
    assert marks.missing(3) == tuple(i for i, state in enumerate(states) if state == "none")[:3]
    assert list(marks.present()) == [i for i, state in enumerate(states) if state != "none"]
    assert all(marks.is_done(i) == (state in {"done", "both"}) for i, state in enumerate(states))


def test_items_are_taken_in_order_and_not_far_ahead():
    begun = []

    def items():
        for number in range(1000):
            begun.append(number)
            yield number

    stream = in_order(lambda number: number * 2, items(), 3)
    assert [next(stream) for _ in range(5)] == [0, 2, 4, 6, 8]
    assert len(begun) < 50
    assert list(stream) == [number * 2 for number in range(5, 1000)]


def test_an_error_comes_in_its_turn():
    stream = in_order(lambda number: 1 // number, [3, 1, 0, 1], 2)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(stream)


masks = st.integers(0, 2**16 - 1).map(lambda bits: np.array([bits >> n & 1 for n in range(16)], np.uint8) * 255)


@given(masks, masks)
def test_dice_is_that_of_the_sets(one, other):
    a, b = set(np.flatnonzero(one)), set(np.flatnonzero(other))
    assert dice(one, other) == (pytest.approx(2 * len(a & b) / (len(a) + len(b))) if a or b else 1)
    assert dice(one, other) == dice(other, one)
    assert dice(one, one) == 1


def test_a_damaged_embedding_is_null_and_the_rest_of_the_row_is_there():
    record = result_of("b", 0)
    classify = record.stages["classify"].model_copy(update={"inline": {"embedding.npy": b"\x93NUMPY"}})
    broken = record.model_copy(update={"stages": {**record.stages, "classify": classify}})
    (row,) = rows_of([sent(row_of(broken))]).to_pylist()
    assert row["embedding"] is None
    assert row["label"] == "nevus"


def test_rows_come_out_as_they_were_sent_and_only_with_their_signature():
    record, key = result_of("b", 7, mm=0.05), SecretStr("k" * 24)
    text = sent(row_of(record, duplicate_of=3))
    signed = sealed(text, "b", key)
    assert opened(signed, "b", key) == text
    for wrong in (text, signed[:-1], "0" + signed[1:], sealed(text, "other", key), "", "é" * 80):
        assert opened(wrong, "b", key) is None
    assert opened(sealed(text, "b", None), "b", None) == text
    row = rows_of([text, sent(row_of(failure_of("b", 8)))]).to_pylist()[0]
    assert (row["index"], row["duplicate_of"], row["started"]) == (7, 3, record.started)
    assert row["embedding"] == [7, 8, 9, 10]
    assert (row["probability_nevus"], row["pixel_spacing_row_mm"], row["flags"]) == (0.7, 0.05, [])


def test_rows_of_another_version_are_refused_and_numbers_that_are_none_are_null():
    with pytest.raises(ValueError, match="not rows"):
        rows_of(['{"index": 1, "novelty": 2}'])
    damaged = sent({"index": 1, "confidence": float("nan"), "probabilities": {"a": float("inf"), "b": 0.5}})
    (row,) = rows_of([damaged]).to_pylist()
    assert (row["confidence"], row["probability_b"], row.get("probability_a")) == (None, 0.5, None)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5900, "98 min"), (19_200, "5 h 20 min"), (183_600, "2 d 3 h")],
)
def test_durations_are_said_as_people_say_them(seconds, words):
    assert duration(seconds) == words
