"""Which offsets of one large range of addresses are in use.

Addresses cost nothing until they are touched, so the range is several times as large as the memory that may be in use
at once, and no hole has to be found by luck. Large pieces come from the low end, whole and aligned to huge pages; small
ones from the high end, so that they never lie between large ones.
"""

from __future__ import annotations

from bisect import bisect_left, insort

LARGE_BYTES = 2 << 20
"""A huge page of x86-64 and arm64 (with pages of 4 KiB): what is at least as large is aligned to it."""


class Arena:
    """Hands out ranges of offsets.

    Args:
        start: First offset, a multiple of ``LARGE_BYTES``.
        stop: One past the last one.
    """

    def __init__(self, start: int, stop: int) -> None:
        self._start, self._stop = start, stop
        self._free: list[tuple[int, int]] = [(start, stop)]
        """Free ranges, in order, none next to another."""

    def take(self, size_bytes: int) -> int | None:
        """Return the first offset of a free range of *size_bytes*, in use from now on; None where there is none."""
        size_bytes = rounded(size_bytes)
        if size_bytes >= LARGE_BYTES:
            for at, (start, stop) in enumerate(self._free):
                aligned = -(-start // LARGE_BYTES) * LARGE_BYTES
                if stop - aligned >= size_bytes:
                    return self._cut(at, aligned, size_bytes)
            return None
        for at in range(len(self._free) - 1, -1, -1):
            start, stop = self._free[at]
            if stop - start >= size_bytes:
                return self._cut(at, stop - size_bytes, size_bytes)
        return None

    def give(self, offset: int, size_bytes: int) -> None:
        """Take back what :meth:`take` returned for *size_bytes*."""
        start, stop = offset, offset + rounded(size_bytes)
        at = bisect_left(self._free, (start, stop))
        if at < len(self._free) and self._free[at][0] == stop:
            stop = self._free.pop(at)[1]
        if at and self._free[at - 1][1] == start:
            start = self._free.pop(at - 1)[0]
        insort(self._free, (start, stop))

    def _cut(self, at: int, offset: int, size_bytes: int) -> int:
        start, stop = self._free[at]
        left = [(start, offset), (offset + size_bytes, stop)]
        self._free[at : at + 1] = [(first, last) for first, last in left if first < last]
        return offset

    def check_invariants(self) -> None:
        """Raise AssertionError where free ranges touch, overlap or lie outside; for tests."""
        last = self._start - 1
        for start, stop in self._free:
            assert last < start < stop <= self._stop
            last = stop


def rounded(size_bytes: int) -> int:
    """Return how many bytes are in use for *size_bytes*: whole huge pages, where it is at least one."""
    unit = LARGE_BYTES if size_bytes >= LARGE_BYTES else 1
    return -(-size_bytes // unit) * unit
