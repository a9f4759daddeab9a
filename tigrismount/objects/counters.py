"""Exact counts of what was sent and received, kept by threads and read by the trio task."""

from __future__ import annotations

import threading

from tigrismount.objects.client import ObjectStatistics


class Counters:
    """The fields of ``ObjectStatistics``, counted under a lock: threads add to them at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(ObjectStatistics.__dataclass_fields__, 0)

    def add(self, name: str, count: int = 1) -> None:
        """Add *count* to the field *name*."""
        with self._lock:
            self._counts[name] += count

    def snapshot(self) -> ObjectStatistics:
        """Return the counts as they are together at one moment."""
        with self._lock:
            return ObjectStatistics(**self._counts)
