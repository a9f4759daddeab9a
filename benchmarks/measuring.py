"""What a measurement is, and how one is taken of whatever runs in this process."""

from __future__ import annotations

import random
import resource
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RANGE_BYTES = 8 << 20
"""One GET of the download and one read of the disk: the block size of the mount."""
PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one process took."""

    seconds: float
    """Wall clock; of first bytes the median of one."""
    size_bytes: int
    """Bytes delivered."""
    cpu_s: float
    """User and system time of the process itself."""

    @property
    def rate_mb_s(self) -> float:
        """10^6 bytes per second."""
        return self.size_bytes / self.seconds / 1e6


def measured(work: Callable[[], int]) -> Measurement:
    """Return what *work*, which returns the bytes it delivered, took."""
    cpu_before_s, before_s = cpu_seconds(), time.perf_counter()
    size_bytes = work()
    return Measurement(time.perf_counter() - before_s, size_bytes, cpu_seconds() - cpu_before_s)


def cpu_seconds() -> float:
    """Return user and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def scattered(size_bytes: int, seed: int, count: int) -> list[int]:
    """Return *count* page offsets at random, each in a block of its own where there are as many."""
    draw = random.Random(seed)
    blocks = draw.sample(range(max(size_bytes // RANGE_BYTES, 1)), min(count, size_bytes // RANGE_BYTES))
    while len(blocks) < count:
        blocks.append(draw.randrange(max(size_bytes // RANGE_BYTES, 1)))
    return [block * RANGE_BYTES + draw.randrange(RANGE_BYTES // PAGE_BYTES) * PAGE_BYTES for block in blocks]


def one_by_one(work: Callable[[int], None], offsets: Sequence[int]) -> Measurement:
    """Return the median time of *work* on each of *offsets*, one after the other."""
    cpu_before_s, taken = cpu_seconds(), []
    for offset in offsets:
        before_s = time.perf_counter()
        work(offset)
        taken.append(time.perf_counter() - before_s)
    return Measurement(statistics.median(taken), len(offsets) * PAGE_BYTES, cpu_seconds() - cpu_before_s)
