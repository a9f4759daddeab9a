"""Whether a drive of the disk cache gives blocks more slowly than the store does. Pure.

A cache is worth its drive only where the drive is faster than the network. A volume that is attached over a network, or
that others keep busy, may not be, for a while or for good. The last few reads and GETs say so; until there are enough
of them, and for reads that are quick anyway, the drive is trusted.
"""

from __future__ import annotations

from collections import defaultdict, deque
from statistics import median

PATIENCE_S = 2.0
"""Longest wait for a block: an NVMe needs milliseconds, a busy disk of a cloud a few hundred."""
_SLOW_S = 1.0
"""A block that comes sooner is not worth a GET. Several are read at once and wait for each other, and a disk that has
just taken a model is still writing it: some tenths of a second are no sign of a drive that is slow for good."""
_TIMES_SLOWER = 1.5
"""How many times longer than the store a drive must take; it costs the bucket's owner nothing, the store may."""
_READS = 8
_FETCHES = 16
_LEAST = 4
"""Fewer say nothing."""


class DrivePace:
    """Knows how long drives and the store took lately."""

    def __init__(self) -> None:
        self._reads_s: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_READS))
        self._fetches_s: deque[float] = deque(maxlen=_FETCHES)

    def note_read(self, drive: str, took_s: float) -> None:
        """Note a block that came from *drive*."""
        self._reads_s[drive].append(took_s)

    def note_piece(self, drive: str, took_s: float) -> None:
        """Note a small part of a block that came from *drive*: where that took long, a block would have taken longer.

        One that was quick says nothing of blocks, of which the drive may give few bytes a second.
        """
        if took_s >= _SLOW_S:
            self.note_read(drive, took_s)

    def note_fetch(self, took_s: float) -> None:
        """Note a GET of a block or more."""
        self._fetches_s.append(took_s)

    def patience_s(self, drive: str) -> float:
        """Return how long to wait for *drive* before the store is asked as well; 0 where it is the slower one."""
        read_s, fetch_s = _usual(self._reads_s[drive]), _usual(self._fetches_s)
        if read_s is None or read_s < _SLOW_S:
            return PATIENCE_S
        # Where the store is not known yet, a GET is worth finding out.
        return 0.0 if fetch_s is None or read_s > _TIMES_SLOWER * fetch_s else PATIENCE_S

    def complaint(self) -> str:
        """Say which drive is slower than the store; empty where none is."""
        for drive, reads_s in self._reads_s.items():
            if not self.patience_s(drive):
                return f"{drive} takes {median(reads_s):.1f} s for a block; the store is asked as well"
        return ""


def _usual(times_s: deque[float]) -> float | None:
    return median(times_s) if len(times_s) >= _LEAST else None
