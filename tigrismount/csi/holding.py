"""One mount as the driver holds it, and the locks that keep two calls about one mount apart."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tigrismount.csi.mounts import MountFailure

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
    passing: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held while its descriptors are passed on: closed meanwhile, their numbers could be those of another mount."""

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
        with self.passing:
            for fd in (self.fuse_fd, self.journal_fd):
                if fd >= 0:
                    with contextlib.suppress(OSError):
                        os.close(fd)
            self.fuse_fd = self.journal_fd = -1


@dataclass
class Operations:
    """Keeps those apart who are busy with the same mount."""

    busy: set[str] = field(default_factory=set)
    """Ids that somebody is busy with now."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    @contextlib.contextmanager
    def on(self, mount_id: str, timeout_s: float) -> Iterator[None]:
        """Be alone with a mount.

        Args:
            mount_id: Which.
            timeout_s: How long to wait for who is busy with it.

        Raises:
            MountFailure: Somebody still is.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: mount_id not in self.busy, max(0.0, timeout_s)):
                raise MountFailure("timeout", f"{mount_id}: is being mounted anew; it is tried again by itself")
            self.busy.add(mount_id)
        try:
            yield
        finally:
            with self.changed:
                self.busy.discard(mount_id)
                self.changed.notify_all()
