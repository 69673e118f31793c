"""Slices of an arena: never two at a place, and all of it is there again when all are back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.triton.sharedmemory import Arena, padded

SIZE = 4096


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1500)), max_size=60))
def test_slices_never_overlap_and_all_comes_back(steps):
    arena = Arena("a", bytearray(SIZE))
    held = []
    for is_back, number in steps:
        if is_back and held:
            slice_, mark = held.pop(number % len(held))
            assert (arena.view(slice_.offset, (slice_.size,), np.uint8) == mark).all()
            arena.give_back(slice_)
        elif (slice_ := arena.take(number)) is not None:
            assert slice_.size >= number
            assert slice_.offset % 64 == 0
            assert slice_.offset + slice_.size <= SIZE
            mark = len(held) % 251 + 1
            arena.view(slice_.offset, (slice_.size,), np.uint8)[:] = mark
            held.append((slice_, mark))
    for slice_, mark in held:
        assert (arena.view(slice_.offset, (slice_.size,), np.uint8) == mark).all()
        arena.give_back(slice_)
    assert arena.take(SIZE) is not None


def test_what_does_not_fit_is_not_given():
    arena = Arena("a", bytearray(SIZE))
    assert arena.take(SIZE + 1) is None
    parts = [arena.take(SIZE // 4) for _ in range(4)]
    assert arena.take(1) is None
    for part in (parts[0], parts[2]):  # room enough, yet not in one piece
        arena.give_back(part)
    assert arena.take(SIZE // 2) is None
    arena.give_back(parts[1])
    assert arena.take(3 * SIZE // 4).offset == 0


def test_arrays_begin_at_multiples_of_64():
    assert [padded(size) for size in (0, 1, 64, 65)] == [0, 64, 64, 128]
