"""Exact counts of what was sent and received, kept by threads and read by the trio task."""

from __future__ import annotations

import threading

from tigrismount.core.histogram import Histogram, HistogramSnapshot
from tigrismount.objects.client import ObjectStatistics

GAUGES = ("get_limit", "get_limit_reason")
"""Fields that are not counted here."""


class Counters:
    """The fields of ``ObjectStatistics``, counted under a lock: threads add to them at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys((name for name in ObjectStatistics.__dataclass_fields__ if name not in GAUGES), 0)
        self._first_bytes, self._gets = Histogram(), Histogram()

    def add(self, name: str, count: int = 1) -> None:
        """Add *count* to the field *name*."""
        with self._lock:
            self._counts[name] += count

    def took(self, first_byte_s: float, whole_s: float) -> None:
        """Note how long a GET took to its answer's head, and to the last byte that was wanted of it."""
        with self._lock:
            self._first_bytes.observe(first_byte_s)
            self._gets.observe(whole_s)

    def timings(self) -> dict[str, HistogramSnapshot]:
        """Return how long GETs took, ``first_byte`` and ``get``."""
        with self._lock:
            return {"first_byte": self._first_bytes.snapshot(), "get": self._gets.snapshot()}

    def snapshot(self, *, get_limit: int = 0, get_limit_reason: str = "") -> ObjectStatistics:
        """Return the counts as they are together at one moment, and beside them the gauges."""
        with self._lock:
            return ObjectStatistics(**self._counts, get_limit=get_limit, get_limit_reason=get_limit_reason)
