"""What the block store did: counters and gauges."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlocksStatistics:
    """Counters since start; gauges say so."""

    reads_hit: int = 0
    """Reads answered from memory at once."""
    reads_missed: int = 0
    """Reads that had to wait for bytes nobody had asked for."""
    reads_joined: int = 0
    """Reads that had to wait for bytes already on their way."""
    bytes_hit: int = 0
    """Bytes answered from memory at once."""
    bytes_waited: int = 0
    """Bytes answered after waiting for a flight."""
    bytes_from_disk: int = 0
    """Bytes read back from the disk cache."""
    parts: int = 0
    """Range GETs started (retries are counted by the client)."""
    failed_parts: int = 0
    """Flights that failed for good."""
    cut_parts: int = 0
    """Flights ended early because nobody wanted them any more."""
    refetched_bytes: int = 0
    """Bytes fetched a second time, because the disk had no time for them when they came."""
    raced_bytes: int = 0
    """Bytes fetched although the disk cache had them, because its disk did not answer in time."""
    left_over_bytes: int = 0
    """Gauge: bytes that the disk had no time for, and that are still to be brought in."""
    evicted_blocks: int = 0
    """Blocks whose memory was taken for others."""
    memory_limit_bytes: int = 0
    """Gauge: the budget."""
    memory_used_bytes: int = 0
    """Gauge: buffers in use."""
    memory_held_bytes: int = 0
    """Gauge: buffers in use or kept for reuse."""
    flights: int = 0
    """Gauge: GETs in flight."""
    disk_flights: int = 0
    """Gauge: disk reads in flight."""
    queued: int = 0
    """Gauge: parts waiting for a flight."""
    objects: int = 0
    """Gauge: object versions with state in memory."""


class BlocksCounters:
    """The mutable side of :class:`BlocksStatistics`."""

    def __init__(self) -> None:
        self.reads_hit = 0
        self.reads_missed = 0
        self.reads_joined = 0
        self.bytes_hit = 0
        self.bytes_waited = 0
        self.bytes_from_disk = 0
        self.parts = 0
        self.failed_parts = 0
        self.cut_parts = 0
        self.refetched_bytes = 0
        self.raced_bytes = 0

    def hit(self, size_bytes: int) -> None:
        """Count a read answered at once."""
        self.reads_hit += 1
        self.bytes_hit += size_bytes

    def miss(self, size_bytes: int, *, joined: bool) -> None:
        """Count a read that had to wait."""
        if joined:
            self.reads_joined += 1
        else:
            self.reads_missed += 1
        self.bytes_waited += size_bytes

    def from_disk(self, size_bytes: int) -> None:
        """Count bytes read back from the disk cache."""
        self.bytes_from_disk += size_bytes

    def snapshot(self, **gauges: int) -> BlocksStatistics:
        """Return the counters together with *gauges*."""
        return BlocksStatistics(**vars(self), **gauges)
