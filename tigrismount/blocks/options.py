"""How much memory and how many flights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksConfig:
    """Limits of the block store."""

    block_bytes: int = 8 << 20
    """Unit of cache, checksum and single-flight; power of two from 1 to 64 MiB. 8 MiB is where boto3's cost per
    request is small against the bytes (docs/adr)."""
    part_bytes: int = 8 << 20
    """Most bytes of one range GET: where boto3's 1.4 ms per request is small against them (docs/adr/0001)."""
    memory_limit_bytes: int = 1 << 30
    """Hard budget of all block buffers."""
    concurrency: int = 32
    """Most GETs in flight; reads that somebody waits for may add an eighth (:func:`with_demand`)."""
    disk_concurrency: int = 4
    """Most blocks read from one drive of the disk cache at once; demand may add one."""
    spent_bytes: int = 128 << 20
    """Blocks read whole that stay in memory although the disk cache has them: readers of one file follow each other
    within the kernel's reordering (64 MiB). Above it their buffers are reused, because touching fresh memory costs
    more CPU than fetching into it."""


def with_demand(flights: int) -> int:
    """Return *flights* and those that only a waiting reader may use, so that it never queues behind prefetch."""
    return flights + max(1, flights // 8)
