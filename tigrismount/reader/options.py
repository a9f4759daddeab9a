"""How far ahead to fetch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderConfig:
    """Limits of read-ahead and prefetch."""

    read_ahead_bytes: int = 512 << 20
    """Most bytes ahead of a reader that are fetched or in flight."""
    prefetch: Literal["auto", "file", "off"] = "auto"
    """``auto`` plans from tensor headers and access patterns, ``file`` from access patterns only, ``off`` fetches
    what is asked for and no more."""
    block_bytes: int = 8 << 20
    """Granularity of plans."""
