from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.arena import LARGE_BYTES, Arena

PAGE = 4096
sizes = st.one_of(st.integers(1, 64).map(lambda pages: pages * PAGE), st.integers(1, 4).map(lambda n: n * LARGE_BYTES))


@given(st.lists(st.tuples(st.booleans(), sizes, st.integers(0, 1 << 16)), max_size=60))
def test_ranges_never_overlap_and_all_come_back(steps):
    arena = Arena(LARGE_BYTES, 17 * LARGE_BYTES)
    taken: list[tuple[int, int]] = []
    for gives, size, which in steps:
        if gives and taken:
            arena.give(*taken.pop(which % len(taken)))
        elif (offset := arena.take(size)) is not None:
            assert LARGE_BYTES <= offset <= 17 * LARGE_BYTES - size
            assert offset % PAGE == 0
            assert size < LARGE_BYTES or offset % LARGE_BYTES == 0
            assert all(offset + size <= start or offset >= start + length for start, length in taken)
            taken.append((offset, size))
        arena.check_invariants()
    for each in taken:
        arena.give(*each)
    assert arena.take(16 * LARGE_BYTES) == LARGE_BYTES


def test_small_ranges_do_not_lie_between_large_ones():
    arena = Arena(0, 4 * LARGE_BYTES)
    small = [arena.take(PAGE) for _ in range(100)]
    assert [arena.take(LARGE_BYTES) for _ in range(3)] == [0, LARGE_BYTES, 2 * LARGE_BYTES]
    assert min(offset for offset in small if offset is not None) >= 3 * LARGE_BYTES
    assert arena.take(LARGE_BYTES) is None
