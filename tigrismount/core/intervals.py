"""Sets of bytes as sorted, disjoint, half-open ranges: which part of a block is there, and which is missing.

A block is filled by one or two parts, so the lists are mostly one to three ranges long and walked linearly; only what
a load report adds to can grow long.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_START, _STOP = itemgetter(0), itemgetter(1)


class Intervals:
    """A mutable set of integers kept as ranges ``(start, stop)``.

    Args:
        ranges: Ranges to begin with, in any order, overlapping or not.
    """

    __slots__ = ("_ranges",)

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._ranges: list[tuple[int, int]] = []
        for start, stop in ranges:
            self.add(start, stop)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._ranges)

    def __repr__(self) -> str:
        return f"Intervals({self._ranges})"

    def add(self, start: int, stop: int) -> None:
        """Add ``[start, stop)``, merging what it touches; an empty range adds nothing."""
        if start >= stop:
            return
        ranges = self._ranges
        first = bisect_left(ranges, start, key=_STOP)
        last = bisect_right(ranges, stop, lo=first, key=_START)
        if first < last:
            start, stop = min(start, ranges[first][0]), max(stop, ranges[last - 1][1])
        ranges[first:last] = [(start, stop)]

    def covers(self, start: int, stop: int) -> bool:
        """Tell whether all of ``[start, stop)`` is in the set; an empty range always is."""
        return start >= stop or any(s <= start and stop <= e for s, e in self._ranges)

    def gaps(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the ranges of ``[start, stop)`` that are not in the set, in order."""
        missing = []
        for s, e in self._ranges:
            if e <= start:
                continue
            if s >= stop:
                break
            if s > start:
                missing.append((start, s))
            start = max(start, e)
        if start < stop:
            missing.append((start, stop))
        return missing

    @property
    def total(self) -> int:
        """How many integers are in the set."""
        return sum(e - s for s, e in self._ranges)

    @property
    def count(self) -> int:
        """How many ranges they lie in."""
        return len(self._ranges)

    def check_invariants(self) -> None:
        """Raise AssertionError unless ranges are non-empty, sorted, and neither overlap nor touch."""
        for s, e in self._ranges:
            assert s < e, self._ranges
        for (_, e), (s, _) in zip(self._ranges, self._ranges[1:], strict=False):
            assert e < s, self._ranges
