"""Intervals behave as sets of integers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.intervals import Intervals

ranges = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)
window = st.tuples(st.integers(0, 40), st.integers(0, 40))


@given(ranges, window)
def test_intervals_agree_with_a_set(added: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    intervals, model = Intervals(), set()
    for start, stop in added:
        intervals.add(start, stop)
        model |= set(range(start, stop))
        intervals.check_invariants()
    start, stop = asked
    wanted = set(range(start, stop))

    assert intervals.total == len(model)
    assert {i for s, e in intervals for i in range(s, e)} == model
    assert intervals.covers(start, stop) == (wanted <= model)
    gaps = intervals.gaps(start, stop)
    assert {i for s, e in gaps for i in range(s, e)} == wanted - model
    assert all(s < e for s, e in gaps)
    assert gaps == sorted(gaps)


def test_ranges_that_touch_become_one() -> None:
    assert list(Intervals([(5, 9), (0, 5), (12, 12)])) == [(0, 9)]
