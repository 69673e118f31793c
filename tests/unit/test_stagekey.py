import re

import pytest

from dermbatch.models.stagekey import REVISIONS, stage_key
from dermbatch.records.outcome import ModelUsed
from dermbatch.stages import Stage

MODEL = ModelUsed(name="segment_unet", version="1", sha256="ab" * 32)
GIVEN = {
    "stage": Stage.SEGMENT,
    "model": MODEL,
    "parameters": {"threshold": 0.5, "long_side": 1024},
    "fed_by": {Stage.PURIFY: "0" * 32},
    "revision": 1,
}


def test_a_key_is_what_it_was_in_the_first_release():
    # Changing this means that every archive is computed again: raise a revision instead.
    assert stage_key(**GIVEN) == "524a24bd55c3bb5cb687281efd06eaac"


def test_a_key_is_32_hexadecimal_digits():
    assert re.fullmatch(r"[0-9a-f]{32}", stage_key(**GIVEN))


@pytest.mark.parametrize(
    "other",
    [
        {"stage": Stage.CLASSIFY},
        {"model": MODEL.model_copy(update={"name": "other"})},
        {"model": MODEL.model_copy(update={"version": "2"})},
        {"model": MODEL.model_copy(update={"sha256": "cd" * 32})},
        {"parameters": {"threshold": 0.50001, "long_side": 1024}},
        {"parameters": {"threshold": 0.5}},
        {"fed_by": {}},
        {"fed_by": {Stage.PURIFY: "1" * 32}},
        {"fed_by": {Stage.SEGMENT: "0" * 32}},
        {"revision": 2},
    ],
)
def test_whatever_the_outcome_depends_on_changes_the_key(other):
    assert stage_key(**GIVEN | other) != stage_key(**GIVEN)


def test_the_order_of_parameters_does_not():
    turned = {"parameters": {"long_side": 1024, "threshold": 0.5}}
    assert stage_key(**GIVEN | turned) == stage_key(**GIVEN)


def test_the_codes_own_revision_is_taken_where_none_is_given():
    plain = {name: value for name, value in GIVEN.items() if name != "revision"}
    assert stage_key(**plain) == stage_key(**GIVEN | {"revision": REVISIONS[Stage.SEGMENT]})
    assert set(REVISIONS) == set(Stage)


def test_a_parameter_that_is_no_number_is_an_error():
    with pytest.raises(ValueError, match="not JSON compliant"):
        stage_key(**GIVEN | {"parameters": {"threshold": float("nan")}})
