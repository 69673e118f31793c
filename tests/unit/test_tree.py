import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.intake.tree import leaves

names = st.sampled_from(["a", "a b", "B", "a.png", "ä%2F", "z", os.fsdecode(b"\xff")])
paths = st.sets(st.lists(names, min_size=1, max_size=3).map(tuple), max_size=12)


@given(paths)
def test_a_walk_goes_on_after_any_leaf(wanted):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for parts in wanted:
            path = root.joinpath(*parts)
            if not path.exists() and not any(parent.is_file() for parent in path.parents):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"")
        everything = list(leaves(root))
        assert {leaf.path for leaf in everything} == {path for path in root.rglob("*") if path.is_file()}
        for number, leaf in enumerate(everything):
            assert leaf.place.isascii()
            assert list(leaves(root, after=leaf.place)) == everything[number + 1 :]
            assert list(leaves(root, after=leaf.place, again=True)) == everything[number:]


def test_what_was_added_behind_comes_and_what_was_added_before_does_not(tmp_path):
    for name in ("b/2", "c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    *_, last = leaves(tmp_path)
    assert last.below == "b/2"
    for name in ("a", "b/1", "b/3", "d/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [leaf.below for leaf in leaves(tmp_path, after=last.place)] == ["b/3", "d/1"]


@pytest.mark.usefixtures("closed_is_closed")
def test_a_closed_folder_is_told_of_once(tmp_path):
    (tmp_path / "closed").mkdir()
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a").write_bytes(b"")
    closed, inside = leaves(tmp_path)
    assert (closed.kind, closed.below, closed.why) == ("closed", "closed", "Permission denied")
    assert list(leaves(tmp_path, after=closed.place)) == [inside]
