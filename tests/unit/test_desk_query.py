"""The query line, orders and facets over tables of made-up results."""

import unicodedata

import numpy as np
import pyarrow as pa
import pytest

from desk.problems import Problem
from desk.results.query import Query
from desk.results.view import View, ViewedBatch
from tests.outcome_samples import failure_of, result_of, table_of


class Held:
    """A table in memory."""

    pending = 0

    def __init__(self, table, version="1"):
        self.schema = table.schema
        self.table, self.version, self.rows, self.names = table, version, table.num_rows, table.column_names

    def columns(self, names):
        return {name: self.table.column(name) for name in names if name in self.names}

    @property
    def indices(self):
        return np.asarray(self.table.column("index"))

    def take(self, names, rows):
        return self.table.select([name for name in names if name in self.names]).take(pa.array(rows))

    def groups(self, names=None):
        yield np.arange(4), self.table.slice(0, 4)
        yield np.arange(4, self.rows), self.table.slice(4)


@pytest.fixture(scope="module")
def table():
    """Six images: four classes of results, and two failures, of which one stands between them."""
    records = [
        result_of("b", 0, probabilities=(0.2, 0.7, 0.1), flags=("touches_frame",)),
        result_of("b", 1, probabilities=(0.9, 0.05, 0.05), mm=0.1),
        failure_of("b", 2),
        result_of("b", 3, probabilities=(0.34, 0.33, 0.33), flags=("touches_frame", "low_confidence")),
        result_of("b", 4, probabilities=(0.1, 0.1, 0.8), area=0),
        failure_of("b", 7, "not_an_image"),
    ]
    return table_of(records)


def view(table, q="", sort="", sets=None):
    return View([ViewedBatch("b", Held(table))], Query(q), sort, sets or {})


def indices(found):
    return [int(index) for _, index in found.pairs(found.order)]


@pytest.mark.parametrize(
    ("q", "wanted"),
    [
        ("", [0, 1, 2, 3, 4, 7]),
        ("probability:[0.2 TO 0.8] AND flag:touches_frame", [0, 3]),
        ("probability:{0.8 TO *]", [1]),
        ("probability:>=0.8", [1, 4]),
        ("class:melanoma", [1, 3]),
        ("class:mel*", [1, 3]),
        ("CLASS:x OR label:Nevus".replace("CLASS", "class"), [0]),
        ("NOT outcome:failed AND -flag:touches_frame", [1, 4]),
        ("reason:truncated OR reason:not_an_image", [2, 7]),
        ("lesion:false", [4]),
        ("diameter_mm:*", [1]),
        ("000003", [3]),
        ('name:"folder/000004.jpg"', [4]),
        ("probability_melanoma:<0.3", [0, 4]),
        ("flag:touches_frame flag:low_confidence", [3]),
        ("started:[2026-03-02 TO 2026-03-02T08:00:02]", [0, 1]),
        ("(class:nevus OR class:melanoma) AND pixels:4096", [0, 1, 3]),
        ("index:[3 TO 4]", [3, 4]),
        ("flag:touches*", [0, 3]),
        ("flag:?ow_confidence", [3]),
        ("folder*3.jpg", [3]),
    ],
)
def test_a_query_means_these_images(table, q, wanted):
    assert indices(view(table, q)) == wanted


@pytest.mark.parametrize(
    ("q", "place"),
    [
        ("probability:[0.2 TO", 19),
        ("a AND", 5),
        ("flag:x AND nothing:y", 11),
        ("class:x AND probability:much", 12),
        ("lesion:perhaps", 0),
        ('"open', 0),
        ("flag:[a TO b]", 0),
        ("class:x AND embedding:1", 12),
        ("x" * 3000, 2000),
    ],
)
def test_what_is_no_query_is_refused_with_its_place(table, q, place):
    with pytest.raises(Problem) as caught:
        indices(view(table, q))
    assert caught.value.status == 400
    assert caught.value.at["parameter"] == "q"
    assert caught.value.at["position"] >= place - 1


def test_letters_with_marks_are_found_however_they_are_written():
    written = [unicodedata.normalize(form, name) for name in ("Müller.jpg", "한국.jpg") for form in ("NFC", "NFD")]
    named = table_of(result_of("b", n).model_copy(update={"name": name}) for n, name in enumerate(written))
    for form in ("NFC", "NFD"):
        for q, wanted in (("MÜLLER", [0, 1]), ("name:müll*", [0, 1]), ("name:Müller.jpg", [0, 1]), ("한", [2, 3])):
            assert indices(view(named, unicodedata.normalize(form, q))) == wanted


def test_results_are_sorted_by_any_column_and_what_has_no_value_comes_last(table):
    assert indices(view(table, sort="-probability")) == [1, 4, 0, 3, 2, 7]
    assert indices(view(table, sort="probability_melanoma")) == [4, 0, 3, 1, 2, 7]
    assert indices(view(table, sort="-uncertainty"))[0] == 3
    assert indices(view(table, sort="class")) == [1, 3, 0, 4, 2, 7]
    assert indices(view(table, sort="-index")) == [7, 4, 3, 2, 1, 0]
    with pytest.raises(Problem, match="results cannot be sorted"):
        indices(view(table, sort="embedding"))


def test_equal_values_keep_the_order_of_their_indices(table):
    assert indices(view(table, "outcome:done", sort="-pixels")) == [0, 1, 3, 4]


def test_sets_and_tags_are_asked_for_by_name(table):
    sets = {"mine": {("b", 1), ("b", 7), ("other", 0)}, "tag-3": {("b", 4)}}
    assert indices(view(table, "set:mine", sets=sets)) == [1, 7]
    assert indices(view(table, "tag:3 OR set:none", sets=sets)) == [4]


def test_facets_count_what_is_meant(table):
    facets = view(table, "outcome:done").facets()
    assert facets["total"] == 4
    assert facets["values"]["label"] == {"melanoma": 2, "nevus": 1, "seborrheic_keratosis": 1}
    assert facets["values"]["flags"] == {"touches_frame": 2, "low_confidence": 1}
    assert sum(facets["spreads"]["probability"]["counts"]) == 4
    assert view(table).facets()["values"]["reason"] == {"not_an_image": 1, "truncated": 1}


def test_a_card_tells_what_is_shown(table):
    found = view(table, "class:nevus")
    (card,) = found.cards(found.order)
    assert card["batch"] == "b"
    assert (card["index"], card["label"], card["flags"]) == (0, "nevus", ["touches_frame"])
    assert card["probabilities"]["nevus"] == pytest.approx(0.7)
    (failed,) = view(table, "reason:truncated").cards(np.array([2]))
    assert (failed["outcome"], failed["probabilities"]) == ("failed", {})


def test_several_batches_are_one_view_also_where_their_classes_differ(table):
    other = table.drop_columns(["probability_nevus"]).append_column(
        "probability_bcc", pa.array([0.5] * 6, pa.float64())
    )
    both = View(
        [ViewedBatch("b", Held(table)), ViewedBatch("c", Held(other))], Query("batch:c OR class:nevus"), "", {}
    )
    assert both.pairs(both.order).tolist() == [[0, 0], *([1, index] for index in (0, 1, 2, 3, 4, 7))]
    assert both.labels == ["melanoma", "nevus", "seborrheic_keratosis", "bcc"]
    cards = both.cards(both.order[:2])
    assert "bcc" not in cards[0]["probabilities"]
    assert "nevus" not in cards[1]["probabilities"]
    assert both.row_of(1, 7) == 11
    assert both.row_of(1, 6) is None
    assert both.row_of(2, 0) is None


def test_another_table_is_another_version_and_the_same_question(table):
    views = [View([ViewedBatch("b", Held(table, version))], Query(""), "", {}) for version in ("1", "2")]
    assert views[0].fingerprint == views[1].fingerprint
    assert views[0].version != views[1].version
