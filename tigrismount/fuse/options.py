"""How the kernel is spoken to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NOT_ASKED_FOR = "--passthrough off"
"""Why the kernel reads no file from the cache by itself, where nobody has asked for that."""


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
    passthrough: Literal["auto", "on", "off"] = "off"
    """Which files the kernel reads from the cache by itself, where it can (docs/adr/0025)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushConfig:
    """Pages that the kernel is given before it asks."""

    mode: Literal["auto", "on", "off"] = "auto"
    """``auto`` pushes files that memory can hold, where the kernel's read-ahead is not raised (docs/adr/0012), ``on``
    all of them, ``off`` none."""
    threads: int = 2
    """Blocks pushed at once: one copies while the next is found."""
