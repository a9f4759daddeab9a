"""Exact counts of what was sent and received, kept by threads and read by the trio task."""

from __future__ import annotations

import threading

from tigrismount.core.histogram import Histogram, HistogramSnapshot
from tigrismount.objects.client import ObjectStatistics


class Counters:
    """The fields of ``ObjectStatistics``, counted under a lock: threads add to them at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(ObjectStatistics.__dataclass_fields__, 0)
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

    def snapshot(self) -> ObjectStatistics:
        """Return the counts as they are together at one moment."""
        with self._lock:
            return ObjectStatistics(**self._counts)
