"""Risk at operating points, and possible labels: what a model's configuration has, and what records say."""

import pytest
from standins import served

from dermbatch.errors import ModelContractError
from dermbatch.models.risk import Points, Sets, points_of, sets_of, written
from dermbatch.records.outcome import ClassifyOutput, Possible, ResultRecord, Risk, SegmentOutput
from dermbatch.records.row import row_of
from orchestrator.reporting.report import card
from orchestrator.reporting.table.columns import read
from orchestrator.reporting.table.columns import written as parquet
from tests.outcome_samples import lesion_of, result_of, table_of
from workers.image.risk import possible_of, risk_of

SAID = {
    "risk.1": "melanoma 0.82=0.3 0.89=0.2 0.95=0.1",
    "sets.1": "0.9 melanoma=0.1 nevus=0.4 seborrheic_keratosis=0.3",
}


def outputs(melanoma, nevus=None, lesion=None, **changes):
    nevus = 1 - melanoma if nevus is None else nevus
    shares = {"melanoma": melanoma, "nevus": nevus, "seborrheic_keratosis": round(1 - melanoma - nevus, 6)}
    found = lesion_of(300) if lesion is None else lesion
    return [
        SegmentOutput(lesion=found.model_copy(update=changes), touches_frame=False, confidence=0.9),
        ClassifyOutput(probabilities=shares, label=max(shares, key=shares.get), embedding_sha256=""),
    ]


def risk(*given, flags=(), **changes):
    plain = {"asymmetry": 0.05, "border_irregularity": 1.1}
    return risk_of(served(**SAID), outputs(*given, **plain | changes), flags)


@pytest.mark.parametrize(
    ("probability", "level", "reached"),
    [
        (0.9, "high", (0.82, 0.89, 0.95)),
        (0.3, "high", (0.82, 0.89, 0.95)),
        (0.29, "raised", (0.89, 0.95)),
        (0.1, "raised", (0.95,)),
        (0.0999, "low", ()),
    ],
)
def test_the_level_is_how_many_points_the_probability_reaches(probability, level, reached):
    found = risk(probability)
    assert (found.of, found.level, found.reached) == ("melanoma", level, reached)


def test_measures_and_flags_never_lower_a_risk_and_keep_it_from_being_low():
    assert risk(0.05, asymmetry=0.2).level == "low"  # one sign is no reason
    both = risk(0.05, asymmetry=0.2, border_irregularity=1.5)
    assert (both.level, both.signs) == ("unclear", ("asymmetry", "border"))
    large = risk(0.05, diameter_mm=7.0, asymmetry=0.2)
    assert (large.level, large.signs) == ("unclear", ("asymmetry", "diameter"))
    doubted = risk(0.05, flags=("touches_frame", "burned_in_text"))
    assert (doubted.level, doubted.cautions) == ("unclear", ("touches_frame",))
    assert risk(0.5, flags=("low_confidence",)).level == "high"


def test_labels_are_possible_from_their_thresholds_on_the_most_probable_first():
    def labels(*given):
        return possible_of(served(**SAID), outputs(*given)).labels

    assert labels(0.05, 0.95) == ("nevus",)
    assert labels(0.15, 0.5) == ("nevus", "seborrheic_keratosis", "melanoma")
    assert labels(0.09, 0.39) == ("seborrheic_keratosis",)
    assert labels(0.09, 0.62) == ("nevus",)
    alone = {"sets.1": "0.9 melanoma=0.5 nevus=0.6"}
    assert possible_of(served(**alone), outputs(0.45, 0.5)) == Possible(
        labels=("seborrheic_keratosis",), coverage=0.9
    )


def test_a_model_without_points_or_an_image_without_diagnosis_has_neither():
    assert risk_of(served(), outputs(0.5), ()) is None
    assert possible_of(served(), outputs(0.5)) is None
    assert risk_of(served(version="2", **SAID), outputs(0.5), ()) is None  # those of version 1 are not its own
    nothing = [ClassifyOutput(probabilities={}, label=None, distance=2, embedding_sha256="")]
    assert risk_of(served(**SAID), nothing, ("not_dermoscopic",)) is None
    assert possible_of(served(**SAID), nothing) is None
    assert risk_of(served(**{"risk.1": "wart 0.9=0.1"}), outputs(0.5), ()) is None


@pytest.mark.parametrize(
    "text",
    [
        "melanoma",
        "melanoma 0.9",
        "melanoma 0.9=x",
        "melanoma 0.9=1.5",
        "melanoma 0.8=0.1 0.9=0.2",
        "melanoma x=0.2",
    ],
)
def test_points_that_cannot_be_are_the_models_fault_and_named(text):
    with pytest.raises(ModelContractError, match="has operating points that cannot be read"):
        risk_of(served(**{"risk.1": text}), outputs(0.5), ())


@pytest.mark.parametrize("text", ["0.9", "0.9 melanoma", "2 melanoma=0.1", "x melanoma=0.1", ""])
def test_thresholds_that_cannot_be_are_named_too(text):
    with pytest.raises((ModelContractError, ValueError)):
        possible_of(served(**{"sets.1": text}), outputs(0.5))


def test_what_is_written_is_read():
    points, sets = Points("melanoma", ((0.82, 0.3), (0.89, 0.2))), Sets(0.9, {"melanoma": 0.1, "nevus": 0.4321})
    parameters = written(points, sets, "3")
    assert (points_of(parameters, "3"), sets_of(parameters, "3")) == (points, sets)
    assert written(None, None, "1") == {}
    assert (points_of({}, "1"), sets_of({}, "1")) == (None, None)


def test_record_table_and_report_show_them_and_records_of_before_are_read():
    plain = result_of("b", 0)
    assert ResultRecord.model_validate_json(plain.model_dump_json(exclude={"risk", "possible"})) == plain
    risk = Risk(of="melanoma", level="raised", reached=(0.89, 0.95))
    record = plain.model_copy(
        update={"risk": risk, "possible": Possible(labels=("nevus", "melanoma"), coverage=0.9)}
    )
    row = row_of(record)
    assert (row["risk"], row["possible"]) == ("raised", ["nevus", "melanoma"])
    assert "risk" not in row_of(plain)
    table = read(parquet(table_of([plain, record.model_copy(update={"index": 1})]))).to_pylist()
    assert [one["risk"] for one in table] == [None, "raised"]
    assert [one["possible"] for one in table] == [None, ["nevus", "melanoma"]]
    measures = dict(card(record).measures)
    assert measures["risk of melanoma"] == "raised, from 89% sensitivity"
    assert measures["possible (90%)"] == "nevus, melanoma"
    assert "risk of melanoma" not in dict(card(plain).measures)
