"""Where cached blocks live and how many may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskCacheConfig:
    """One cache directory."""

    directory: str
    """Absolute path; made with mode 0700 when missing."""
    size_bytes: int
    """Most bytes of blocks kept, counted on disk."""
    weight: int = 1
    """Share of all objects that come here when there are several directories: in proportion to the disk's size."""
    free_floor_fraction: float = 0.05
    """Share of the filesystem that is left free whatever ``size_bytes`` says."""
    block_bytes: int = 8 << 20
    """Block size of object versions first seen now; versions already in the cache keep theirs."""
    verify: Literal["always", "once", "off"] = "once"
    """When a cached block is checked: at each read, at its first use after a start, or only after an unclean end."""
    write_queue_bytes: int = 256 << 20
    """Most bytes waiting for the disk; beyond it blocks are simply not cached (the network never waits)."""
