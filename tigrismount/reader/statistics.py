"""What the readers count."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReadersStatistics:
    """Counters since start, and gauges where said."""

    open: int = 0
    """Gauge: object versions that somebody has open."""
    kept: int = 0
    """Gauge: versions that nobody has open, whose streams are still remembered."""
    plans: int = 0
    """Times a reader said what it will want next."""
    probes: int = 0
    """Headers asked for."""
    layouts: int = 0
    """Gauge: layouts remembered."""
    format_errors: int = 0
    """Headers that were refused."""
    probe_errors: int = 0
    """Headers that could not be read."""
    models: int = 0
    """Gauge: models whose shards are planned together."""
    orders_followed: int = 0
    """Files for which an order from an earlier load was known."""
    orders_learned: int = 0
    """Orders kept for later loads."""
