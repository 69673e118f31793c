from hypothesis import given
from hypothesis import strategies as st

from dermbatch.stages import FEEDS, ORDER, REQUIRES, Stage, closure


@given(st.sets(st.sampled_from(ORDER), min_size=1))
def test_closure_is_ordered_complete_and_closed(wanted):
    chosen = closure(frozenset(wanted))
    assert set(wanted) <= set(chosen)
    assert list(chosen) == sorted(chosen, key=ORDER.index)
    assert all(set(REQUIRES[stage]) <= set(chosen) for stage in chosen)
    assert closure(frozenset(chosen)) == chosen


def test_diagnosis_needs_the_mask_but_not_purification():
    assert closure(frozenset({Stage.CLASSIFY})) == (Stage.SEGMENT, Stage.CLASSIFY)


def test_what_a_stage_requires_also_feeds_it():
    assert all(set(REQUIRES[stage]) <= set(FEEDS[stage]) for stage in ORDER)
