"""How the kernel is spoken to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseConfig:
    """Limits of the FUSE connection."""

    request_deadline_s: float = 330.0
    """Seconds after which any request is answered with an error, a little above the store's own deadline."""
    max_background: int = 64
    """Read-ahead requests the kernel may have outstanding (its default is 12); sent in the INIT reply."""
    min_tasks: int = 16
    """Handlers pyfuse3 keeps ready; fewer would be made and torn down around bursts."""
    max_tasks: int = 4096
    """Handlers at most: reads that wait for the store must never keep a look-up waiting."""
