import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.stages import Stage


@given(st.integers(min_value=0, max_value=10**9))
def test_every_index_has_a_place_of_its_own(index):
    part, n = layout.part_of(index)
    assert int(part) * layout.PART_SIZE + n == index
    assert 0 <= n < layout.PART_SIZE


def test_keys_are_those_of_the_documents():
    assert layout.artifact("ab12", Stage.SEGMENT, "k1", "mask.png") == "images/ab12/segment/k1/mask.png"
    assert layout.preview("ab12", "k2") == "images/ab12/preview/k2/preview.jpg"
    assert layout.manifest_part("b", "000001") == "batches/b/manifest/000001.jsonl"
    assert layout.result("b", 1234) == "batches/b/results/000001/234.json"
    assert layout.failure("b", 7) == "batches/b/failed/000000/7.json"
    assert layout.report("b") == "batches/b/report.html"
    assert layout.batch_record("b").startswith(layout.batch_prefix("b"))


@pytest.mark.parametrize("name", ["a", "2026-11-21.night_run", "x" * 100])
def test_usable_batch_names(name):
    assert layout.check_batch_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "Upper", "a/b", "../up", "a..b", "-a", "a-", "é", "a b", "x" * 101, "a\n", "a:b"]
)
def test_unusable_batch_names(name):
    with pytest.raises(UsageError, match="batch name"):
        layout.check_batch_name(name)
