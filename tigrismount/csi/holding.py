"""One mount as the driver holds it, and the locks that keep two calls about one mount apart."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tigrismount.mounter.wire import Order


@dataclass
class Held:
    """One mount and what it needs to live on."""

    order: Order
    fuse_fd: int = -1
    journal_fd: int = -1
    init: str = ""
    """The kernel's first message, in hexadecimal."""
    init_reply: str = ""
    """What was answered; empty until a worker has attached."""
    count: int = 0
    """Takeovers so far."""
    reason: str = ""
    """How the last worker ended."""
    degraded: str = ""
    """What the worker complains about."""
    lost: str = ""
    """Why no worker can serve it any more; empty while one can."""

    is_ending: bool = False
    """Whether it is being unmounted: that its connection ends then is no loss."""

    @property
    def at(self) -> Path:
        """Where it is mounted."""
        return Path(self.order.mountpoint)

    @property
    def can_be_adopted(self) -> bool:
        """Whether a worker could be put behind it."""
        return self.fuse_fd >= 0 and self.journal_fd >= 0 and bool(self.init_reply) and not self.lost

    def close(self) -> None:
        """Hold it no longer: where nobody else does either, the kernel ends the connection."""
        for fd in (self.fuse_fd, self.journal_fd):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self.fuse_fd = self.journal_fd = -1


@dataclass
class Operations:
    """The locks of mounts, one for each id that somebody is busy with or that is known."""

    locks: dict[str, threading.Lock] = field(default_factory=dict)
    guard: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def on(self, mount_id: str) -> Iterator[None]:
        """Be alone with a mount."""
        with self.guard:
            lock = self.locks.setdefault(mount_id, threading.Lock())
        with lock:
            yield
