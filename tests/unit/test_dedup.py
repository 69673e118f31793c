from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.dedup import Contents


@given(st.lists(st.integers(0, 12)))
def test_the_first_of_each_content_is_remembered(contents):
    with Contents() as seen:
        found = [seen.first(f"{content:032x}", index) for index, content in enumerate(contents)]
    first = [contents.index(content) for content in contents]
    assert found == [None if at == index else at for index, at in enumerate(first)]


def test_unknown_contents_equal_none_and_asking_again_is_no_duplicate():
    with Contents() as seen:
        assert seen.first(None, 0) is None
        assert seen.first(None, 1) is None
        assert seen.first("ab" * 16, 2) is None
        assert seen.first("ab" * 16, 2) is None
        assert seen.first("ab" * 16, 3) == 2
        assert seen.count(known=False) == 1


@given(st.sets(st.integers(0, 200)), st.sets(st.integers(0, 200)), st.integers(1, 30))
def test_what_is_drawn_is_known_spread_and_no_more_than_asked(there, known, most):
    with Contents() as seen:
        for index, content in enumerate(there):
            seen.first(f"{content:032x}", index)
        for content in known:
            seen.mark(f"{content:032x}")
        seen.mark("no fingerprint")
        matches = sorted(there & known)
        drawn = [int(fingerprint, 16) for fingerprint in seen.draw(most, known=True)]
        assert seen.count(known=True) == len(matches)
        assert len(drawn) <= most
        assert len(drawn) >= min(most, len(matches)) / 2
        step = -(-len(matches) // most) or 1
        assert drawn == matches[::step]
