"""How long things took, as counts of durations up to some bounds: enough for quantiles, small for ever."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
"""Bounds for requests: from a read answered out of memory to one that nearly gave up."""


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """A histogram at one moment."""

    bounds: tuple[float, ...]
    """Upper bounds, each included, ascending."""
    counts: tuple[int, ...]
    """Values up to each bound and above the one before; one more for those above all bounds."""
    total: float
    """Sum of all values."""

    @property
    def count(self) -> int:
        """Values in all."""
        return sum(self.counts)


class Histogram:
    """Counts values; not safe to use from several threads.

    Args:
        bounds: Upper bounds, ascending.
    """

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count *value*."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def snapshot(self) -> HistogramSnapshot:
        """Return the counts so far."""
        return HistogramSnapshot(self._bounds, tuple(self._counts), self._total)
